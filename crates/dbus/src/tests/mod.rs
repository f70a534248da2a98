//! The door as tools and clients on a bus see it: a private `dbus-daemon`, with a fake control loop behind the door.

mod calls;
mod events;
mod policy;
mod tools;

use std::process::Output;
use std::sync::Arc;

use api::testing::{fake_api, succeed};
use api::{Command, EventLog};
use zbus::connection::Builder;
use zbus::{Connection, Message, message};

use crate::testing::{Daemon, House, NAME, PATH};
use crate::{Bus, ServeError, Settings, serve};

fn connect(house: &House) -> Caller {
    Caller::new(&house.daemon.address)
}

/// A client on the bus, with a runtime of its own.
struct Caller {
    runtime: tokio::runtime::Runtime,
    connection: Connection,
}

impl Caller {
    fn new(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let connection = runtime.block_on(Builder::address(address).build()).unwrap();
        Self { runtime, connection }
    }

    /// A call that is not sent yet.
    fn message(&self, method: &str) -> message::Builder<'static> {
        let call = Message::method_call(PATH, method.to_owned());
        call.destination(NAME).interface(api::dbus::INTERFACE)
    }

    fn call<B: zbus::wire::DynamicType + serde::Serialize>(
        &self,
        method: &str,
        body: &B,
    ) -> Result<Message, (String, String)> {
        let call = self.connection.call_method(Some(NAME), PATH, Some(api::dbus::INTERFACE), method, body);
        self.runtime.block_on(call).map_err(told)
    }
}

/// An error's name and text.
fn told(error: zbus::Error) -> (String, String) {
    match error {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.unwrap_or_default()),
        zbus::Error::FDO(error) => {
            let error: &dyn zbus::DBusError = &*error;
            (error.name().to_string(), error.description().unwrap_or_default().into())
        }
        other => panic!("{other:?}"),
    }
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim_end().into()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim_end().into()
}
