//! `GET /.well-known/synod/outcome`: what became of the request with this Idempotency-Key.
//!
//! In: a key, with the credentials that it was used with. Out: what the tables say, read
//! linearizably. It calls apply's tables, and another member where this one cannot catch up.

use std::time::Duration;

use http::header::{self, HeaderValue};
use http::{Method, Response};
use serde_json::json;
use synod_paxos::Slot;
use tokio::time::{Instant, timeout_at};

use super::backend::Backend;
use super::body::ResponseBody;
use super::capture::Captured;
use super::core::{Call, Core, Times};
use super::headers;
use super::problem::{OutcomeName, Problem};
use crate::apply::handle::KeyOutcome;
use crate::apply::{Answer, Outcome};

/// Where it is.
pub(super) const PATH: &str = "/.well-known/synod/outcome";
/// After this time a member that lags behind asks another one.
const PATIENCE: Duration = Duration::from_secs(1);

// === impl Core ===

impl<B: Backend> Core<B> {
    pub(super) async fn outcome(&self, call: &Call) -> Result<Response<ResponseBody>, Problem> {
        if !matches!(call.method, Method::GET | Method::HEAD) {
            return Err(Problem::method_not_allowed("ask with GET"));
        }
        let routes = self.routes();
        let policy = routes.policy();
        let Some(key) = headers::idempotency_key(&call.headers, policy.idempotency.as_ref())?
        else {
            return Err(Problem::invalid_key("there is none"));
        };
        let limit = Instant::now() + Times::of(policy).queue;
        let patient = if call.handed_over {
            limit
        } else {
            limit.min(Instant::now() + PATIENCE)
        };
        // A member whose copy does not answer hands this on, too.
        let elsewhere = self.others_are_better() && !call.handed_over;
        let mut caught_up = !elsewhere && timeout_at(patient, self.linearizable()).await.is_ok();
        if !caught_up && !call.handed_over {
            if let Some(response) = self.hand_over(call, &Captured::nothing(), limit).await {
                return Ok(response);
            }
            caught_up = timeout_at(limit, self.linearizable()).await.is_ok();
        }
        if !caught_up {
            return Err(Problem::unavailable(
                "no member that can be reached is up to date",
            ));
        }
        // The policy says what a principal is, and may have changed up to the index.
        let routes = self.routes();
        let principal = headers::principal(&call.headers, routes.policy().idempotency.as_ref());
        // It may wait for the end of the request that the key belongs to.
        let known = timeout_at(limit, self.backend.key_outcome(principal, key)).await;
        match known.map_err(|_| Problem::unavailable("the request is still being executed"))? {
            KeyOutcome::Unknown => Ok(self.tell(call, OutcomeName::Unknown, None, None)),
            KeyOutcome::PrincipalChanged => Err(Problem::key_of_another()),
            KeyOutcome::Known(answer) => Ok(self.tell_answer(call, &answer)),
        }
    }

    fn tell_answer(&self, call: &Call, answer: &Answer) -> Response<ResponseBody> {
        let status = answer
            .response
            .as_ref()
            .map(|response| response.status.as_u16());
        let name = match answer.outcome {
            Outcome::Executed | Outcome::Replayed => OutcomeName::Executed,
            Outcome::Skipped => OutcomeName::Skipped,
            Outcome::ResponseGone => OutcomeName::ResponseGone,
            Outcome::Expired | Outcome::Reclassify => OutcomeName::NotOrdered,
            _ => OutcomeName::Unknown,
        };
        self.tell(call, name, Some(answer.slot), status)
    }

    fn tell(
        &self,
        call: &Call,
        name: OutcomeName,
        slot: Option<Slot>,
        status: Option<u16>,
    ) -> Response<ResponseBody> {
        let body = json!({
            "outcome": name.as_str(),
            "slot": slot.map(|slot| slot.0),
            "status": status,
        });
        let body = if call.method == Method::HEAD {
            ResponseBody::empty()
        } else {
            ResponseBody::full(body.to_string().into())
        };
        let mut response = Response::new(body);
        let fields = response.headers_mut();
        fields.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        self.sign(fields, self.applied());
        response
    }
}
