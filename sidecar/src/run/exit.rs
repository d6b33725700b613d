//! The codes with which a sidecar's process ends, as in `sysexits.h` where that has one.

use std::process::ExitCode;

use super::{BeginningError, FormError, MemberEnd, StartError};
use crate::node::NodeEnd;

/// It was asked to end, and has ended in order.
pub const OK: u8 = 0;
/// A failure of this program itself.
pub const FAILED: u8 = 70;
/// The configuration is not valid: it names the field and what is allowed.
pub const CONFIG: u8 = 64;
/// The genesis file is not valid or not for this member, or this member's log is of an
/// incarnation that the group does not count on.
pub const GENESIS: u8 = 65;
/// A port is taken, or an address is not this machine's.
pub const PORT: u8 = 69;
/// The data folder or a file in it cannot be used.
pub const DATA: u8 = 74;
/// The data folder is in use by a process that runs.
pub const IN_USE: u8 = 75;
/// The log was written by, or the group speaks, a later version than this program.
pub const VERSION: u8 = 76;
/// The certificate files are missing, unreadable or do not fit.
pub const IDENTITY: u8 = 77;
/// The disk remembers less than peers do: the member must be replaced.
pub const FORGETFUL: u8 = 78;

/// The code for an end.
pub fn code(end: &Result<MemberEnd, StartError>) -> ExitCode {
    let code = match end {
        Ok(MemberEnd::Stopped) => OK,
        Ok(MemberEnd::Form(error)) => match error {
            FormError::Genesis(_) => GENESIS,
            FormError::Policy(_) | FormError::Role { .. } => CONFIG,
            FormError::Write(_) | FormError::Damaged(_) => DATA,
        },
        Ok(MemberEnd::Begin(error)) => begin_code(error),
        Ok(MemberEnd::Node(error)) => match error {
            NodeEnd::Stopped => OK,
            NodeEnd::Log(_) => DATA,
            NodeEnd::Forgetful { .. } => FORGETFUL,
            NodeEnd::Outdated { .. } => VERSION,
            NodeEnd::Failed(_) => FAILED,
        },
        Ok(MemberEnd::Apply(_)) => DATA,
        Ok(MemberEnd::Failed(_)) => FAILED,
        Err(error) => start_code(error),
    };
    ExitCode::from(code)
}

fn begin_code(error: &synod_paxos::StartError) -> u8 {
    match error {
        synod_paxos::StartError::NotAMember(_) => GENESIS,
        synod_paxos::StartError::Protocol { .. } => VERSION,
        synod_paxos::StartError::Recovered(_) => DATA,
        _ => FAILED,
    }
}

fn start_code(error: &StartError) -> u8 {
    match error {
        StartError::Config(_) | StartError::Beginning(BeginningError::Config(_)) => CONFIG,
        StartError::Port { .. } => PORT,
        StartError::Identity(_) => IDENTITY,
        StartError::Beginning(_)
        | StartError::Data { .. }
        | StartError::Apply(_)
        | StartError::Keeper(_) => DATA,
        StartError::Log { error, .. } => match error {
            synod_wal::OpenError::InUse { .. } => IN_USE,
            synod_wal::OpenError::UnknownVersion { .. } => VERSION,
            synod_wal::OpenError::BadOption { .. } => CONFIG,
            _ => DATA,
        },
    }
}
