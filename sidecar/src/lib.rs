//! The data plane: the reverse proxy next to every copy of a service.
//!
//! A request's way through it: [`ingress`] takes and classifies it, [`node`] has it agreed on,
//! [`apply`] decides what each copy does with it and [`app`] does it; [`ingress`] answers. Then
//! [`copies`] sees whether all copies have answered alike. Beside that way, [`keeper`] has the app's
//! state saved now and then ([`snapshot`]), so that the log can be cut, and [`backup`] takes it away; [`founding`]
//! makes a new group of that.

#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
pub mod admin;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
pub mod app;
pub mod apply;
pub mod backup;
pub mod config;
pub mod copies;
pub mod founding;
pub mod identity;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
pub mod ingress;
pub mod keeper;
pub mod net;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
pub mod node;
pub mod poison;
#[expect(clippy::disallowed_methods, reason = "a shell: reads clocks")]
pub mod revision;
pub mod run;
pub mod snapshot;
