//! I10: no vote at or beyond an uncommitted slot whose body is lost.
//!
//! Source: Alagappan et al., *Protocol-Aware Recovery for Consensus-Based Storage* (FAST'18),
//! section 3.

use synod_paxos::{Message, Slot};

use super::Violation;

/// This message leaves a member whose first faulty slot above its commit is `faulty`.
pub(crate) fn leaves(
    member: usize,
    message: &Message,
    faulty: Option<Slot>,
) -> Result<(), Violation> {
    let (Message::Accepted { slot, .. }, Some(faulty)) = (message, faulty) else {
        return Ok(());
    };
    if *slot >= faulty {
        return Err(Violation::new(
            "I10",
            format!(
                "member {} votes up to {slot} and cannot read slot {faulty}",
                member + 1
            ),
        ));
    }
    Ok(())
}
