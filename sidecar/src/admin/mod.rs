//! What kubelet, operators and people ask of one member: live, ready, metrics, status, app health
//! and the start signal.

pub mod status;
