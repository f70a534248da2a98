//! The crate `cloud-hypervisor-client`, generated from the reference's own document.

use std::path::Path;

use cloud_hypervisor_client::apis::{DefaultApi, Error};
use cloud_hypervisor_client::{SocketBasedApiClient, socket_based_api_client};
use serde_json::Value;

use crate::{Failure, told};

pub(crate) type Client = SocketBasedApiClient;

pub(crate) fn connect(socket: &Path) -> Client {
    socket_based_api_client(socket)
}

pub(crate) async fn call(client: &Client, verb: &str, body: Value) -> Result<Value, Failure> {
    match verb {
        "vmm.ping" => told(client.vmm_ping_get().await),
        "vm.info" => told(client.vm_info_get().await),
        "vm.counters" => told(client.vm_counters_get().await),
        "vm.create" => told(client.create_vm(serde_json::from_value(body)?).await),
        "vm.boot" => told(client.boot_vm().await),
        "vm.pause" => told(client.pause_vm().await),
        "vm.resume" => told(client.resume_vm().await),
        "vm.power-button" => told(client.power_button_vm().await),
        "vm.shutdown" => told(client.shutdown_vm().await),
        "vm.delete" => told(client.delete_vm().await),
        "vmm.shutdown" => told(client.shutdown_vmm().await),
        _ => Err(Failure::NoCall(verb.to_owned())),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Api(refusal) => Self::Status(refusal.code.as_u16()),
            other => Self::Broken(other.to_string()),
        }
    }
}
