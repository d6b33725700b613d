//! Certificates, and who may call what. In: PEM files. Out: TLS configurations that accept a
//! certificate of the group's authority only, and the name each connection's other side proved.
//!
//! An identity is a name, never an address: the one URI in a certificate's alternative names.

mod accept;
mod connect;
mod expiry;
mod files;
mod verify;
mod words;

pub use accept::{Caller, Secured, accept, same_group};
pub use connect::{ConnectError, Connector, connect};
pub(crate) use connect::{KEEPALIVE_AFTER, USER_TIMEOUT, WINDOW, causes};
pub use expiry::Expiring;
pub use files::{Identity, IdentityError};

/// Whom the certificates of one service may name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Names {
    /// Trust domain of the group's authority.
    pub trust_domain: String,
    /// Namespace of the service.
    pub namespace: String,
    /// Name of the service.
    pub service: String,
}

/// Who holds a certificate of this service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The member of this stable name: may call everything.
    Member(String),
    /// An operator or a command line: may call control only.
    Operator,
}

// === impl Names ===

impl Names {
    /// The name of a member, as certificates carry it.
    pub fn member(&self, member: &str) -> String {
        format!("{}member/{member}", self.prefix())
    }

    /// The name of the service's operator, as certificates carry it.
    pub fn operator(&self) -> String {
        format!("{}operator", self.prefix())
    }

    /// The name of `who`, as certificates carry it.
    pub fn of(&self, who: &Who) -> String {
        match who {
            Who::Member(name) => self.member(name),
            Who::Operator => self.operator(),
        }
    }

    /// Whom a name stands for; `None` when it is not of this service.
    pub fn parse(&self, uri: &str) -> Option<Who> {
        let rest = uri.strip_prefix(&self.prefix())?;
        if rest == "operator" {
            return Some(Who::Operator);
        }
        let name = rest.strip_prefix("member/")?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (!name.is_empty() && name.bytes().all(plain)).then(|| Who::Member(name.to_owned()))
    }

    fn prefix(&self) -> String {
        let Self {
            trust_domain,
            namespace,
            service,
        } = self;
        format!("spiffe://{trust_domain}/ns/{namespace}/rsvc/{service}/")
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests;
