//! A snapshot as one member offers it to another.

use bytes::Bytes;
use synod_proto::v1::{SnapshotInfo, SnapshotStanding};

use crate::snapshot::head::{Head, HeadError, SnapshotId, StateDigest, array};
use crate::snapshot::store::{Snapshot, Standing};

pub(super) fn to_proto(snapshot: &Snapshot) -> SnapshotInfo {
    SnapshotInfo {
        head: Some(snapshot.head.to_proto()),
        id: Bytes::copy_from_slice(&snapshot.id.0),
        bytes: snapshot.bytes,
        state_bytes: snapshot.state_bytes,
        state_digest: Bytes::copy_from_slice(&snapshot.state_digest.0),
        standing: match snapshot.standing {
            Standing::Uncompared => SnapshotStanding::Unspecified,
            Standing::Verified => SnapshotStanding::Verified,
            Standing::Unverified => SnapshotStanding::Unverified,
        }
        .into(),
    }
}

pub(super) fn from_proto(info: SnapshotInfo) -> Result<Snapshot, HeadError> {
    let standing = match SnapshotStanding::try_from(info.standing) {
        Ok(SnapshotStanding::Verified) => Standing::Verified,
        Ok(SnapshotStanding::Unverified) => Standing::Unverified,
        Ok(SnapshotStanding::Unspecified) | Err(_) => Standing::Uncompared,
    };
    Ok(Snapshot {
        head: Head::from_proto(info.head.ok_or(HeadError("content"))?)?,
        id: SnapshotId(array(&info.id, "id")?),
        bytes: info.bytes,
        state_bytes: info.state_bytes,
        state_digest: StateDigest(array(&info.state_digest, "state digest")?),
        standing,
    })
}
