//! A request body made from the schema that `docs/openapi.json` has for it: it is read without a word of complaint, and comes back.
//!
//! The first byte chooses the type, the others its content.

use config::{
    DeviceConfig, DiskConfig, FsConfig, GenericVhostUserConfig, NetConfig, PmemConfig, RestoreConfig,
    UserDeviceConfig, VdpaConfig, VmCancelJob, VmConfig, VmCoredumpData, VmReceiveMigrationData,
    VmRemoveDevice, VmResize, VmResizeDisk, VmResizeZone, VmSendMigrationData, VmSnapshotConfig, VsockConfig,
    from_json,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::bytes::Bytes;
use crate::json::{assert_kept, assert_stable};
use crate::schema::fitting;

/// A type's schema and how it is read.
struct Body {
    schema: &'static str,
    check: fn(&Value),
}

macro_rules! bodies {
    ($($Type:ident),* $(,)?) => { &[$(Body { schema: stringify!($Type), check: check::<$Type> },)*] };
}

const BODIES: &[Body] = bodies![
    DeviceConfig,
    DiskConfig,
    FsConfig,
    GenericVhostUserConfig,
    NetConfig,
    PmemConfig,
    RestoreConfig,
    UserDeviceConfig,
    VdpaConfig,
    VmCancelJob,
    VmConfig,
    VmCoredumpData,
    VmReceiveMigrationData,
    VmRemoveDevice,
    VmResize,
    VmResizeDisk,
    VmResizeZone,
    VmSendMigrationData,
    VmSnapshotConfig,
    VsockConfig,
];

/// The schemas of all bodies.
pub fn bodies() -> impl Iterator<Item = &'static str> {
    BODIES.iter().map(|body| body.schema)
}

pub(crate) fn run(data: &[u8]) {
    let mut bytes = Bytes(data);
    let body = bytes.one_of(BODIES);
    (body.check)(&fitting(body.schema, &mut bytes));
}

fn check<T: Serialize + DeserializeOwned>(given: &Value) {
    let (body, unknown) =
        from_json::<T>(given.to_string().as_bytes()).unwrap_or_else(|e| panic!("{e}: refused: {given}"));
    assert!(unknown.is_empty(), "{unknown:?} of {given}");
    assert_kept(given, &assert_stable(&body));
}
