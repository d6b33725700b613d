//! Wire messages and gRPC services of Synod, generated from `synod/v1/*.proto`.
#![allow(clippy::pedantic, missing_docs, unreachable_pub)]

/// Version 1 of the wire format.
pub mod v1 {
    tonic::include_proto!("synod.v1");
}
