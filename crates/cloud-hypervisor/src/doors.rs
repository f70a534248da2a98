//! The doors the flags ask for: planned while flags are read, prepared before anything else is made, opened and closed around the control
//! loop. Each stage holds what the next one needs. Called on the main thread.

use std::path::PathBuf;
use std::sync::Arc;

use api::Client;
#[cfg(feature = "dbus_api")]
use dbus::{Bus, Settings};
use device::Events;
use gdb::DebugDesk;
use thiserror::Error;

use crate::cli::Cli;
use crate::endpoint::{Endpoint, EndpointError};

/// Why a door does not open, or does not close.
#[derive(Debug, Error)]
pub(crate) enum DoorError {
    /// The socket's flag makes no sense.
    #[error("Error parsing --api-socket")]
    ApiSocket(#[source] EndpointError),
    /// The socket cannot be listened on.
    #[error("Error creating the API socket")]
    Bind(#[source] http::BindError),
    /// The REST API does not start.
    #[error("Error starting the API")]
    Serve(#[source] http::ServeError),
    /// The REST API does not end well.
    #[error(transparent)]
    Stop(http::StopError),
    /// The debugger's flag names no path.
    #[error("Error parsing --gdb: path required")]
    GdbSyntax,
    /// The debugger's socket cannot be listened on.
    #[error("Error creating the debugger's socket")]
    GdbBind(#[source] gdb::BindError),
    /// The debugger's stub does not start.
    #[error("Error starting the debugger's stub")]
    GdbServe(#[source] gdb::ServeError),
    /// The other flag of the two is missing.
    #[cfg(feature = "dbus_api")]
    #[error("`--{0}` option isn't provided")]
    DbusFlag(&'static str),
    /// The D-Bus API does not start.
    #[cfg(feature = "dbus_api")]
    #[error("Error starting the D-Bus API")]
    DbusServe(#[source] dbus::ServeError),
    /// The D-Bus API does not end well.
    #[cfg(feature = "dbus_api")]
    #[error(transparent)]
    DbusStop(dbus::StopError),
}

/// Which doors there are to be.
pub(crate) struct Wanted {
    socket: Option<Endpoint>,
    gdb: Option<PathBuf>,
    #[cfg(feature = "dbus_api")]
    dbus: Option<Settings>,
}

/// Doors at which clients may wait.
pub(crate) struct Prepared {
    http: Option<http::Bound>,
    gdb: Option<gdb::Bound>,
    #[cfg(feature = "dbus_api")]
    dbus: Option<Settings>,
}

/// Doors through which clients are served.
pub(crate) struct Open {
    http: Option<http::Server>,
    gdb: Option<gdb::Server>,
    #[cfg(feature = "dbus_api")]
    dbus: Option<dbus::Server>,
}

impl Wanted {
    /// What the flags say.
    ///
    /// # Errors
    /// [`DoorError`].
    pub(crate) fn read(cli: &Cli) -> Result<Self, DoorError> {
        Ok(Self {
            socket: cli
                .api_socket
                .as_deref()
                .map(Endpoint::parse)
                .transpose()
                .map_err(DoorError::ApiSocket)?,
            gdb: cli.gdb.as_deref().map(gdb_path).transpose()?,
            #[cfg(feature = "dbus_api")]
            dbus: dbus_settings(cli)?,
        })
    }

    /// Listens, so that clients may connect while the rest is made.
    ///
    /// # Errors
    /// [`DoorError`].
    pub(crate) fn prepare(self) -> Result<Prepared, DoorError> {
        let listen = self.socket.map(listen).transpose()?;
        Ok(Prepared {
            http: listen.map(http::bind).transpose().map_err(DoorError::Bind)?,
            gdb: self.gdb.as_deref().map(gdb::bind).transpose().map_err(DoorError::GdbBind)?,
            #[cfg(feature = "dbus_api")]
            dbus: self.dbus,
        })
    }
}

impl Prepared {
    /// Serves clients from now on. What debuggers do is told to `events`.
    ///
    /// # Errors
    /// [`DoorError`].
    pub(crate) fn open(self, client: &Client, events: Events) -> Result<Open, DoorError> {
        let gdb = self.gdb.map(|bound| gdb::serve(bound, events));
        let http = self.http.map(|bound| http::serve(bound, client.clone()));
        #[cfg(feature = "dbus_api")]
        let dbus = self.dbus.map(|settings| dbus::serve(settings, client.clone()));
        Ok(Open {
            http: http.transpose().map_err(DoorError::Serve)?,
            gdb: gdb.transpose().map_err(DoorError::GdbServe)?,
            #[cfg(feature = "dbus_api")]
            dbus: dbus.transpose().map_err(DoorError::DbusServe)?,
        })
    }
}

impl Open {
    /// Where control and the debugger's stub meet.
    pub(crate) fn debug_desk(&self) -> Option<Arc<DebugDesk>> {
        self.gdb.as_ref().map(gdb::Server::desk)
    }

    /// Lets clients have their replies, at the end of a process that ends well.
    ///
    /// # Errors
    /// [`DoorError`].
    pub(crate) fn close(self) -> Result<(), DoorError> {
        if let Some(gdb) = self.gdb {
            gdb.stop();
        }
        #[cfg(feature = "dbus_api")]
        let dbus = self.dbus.map_or(Ok(()), dbus::Server::stop);
        self.http.map_or(Ok(()), http::Server::stop).map_err(DoorError::Stop)?;
        #[cfg(feature = "dbus_api")]
        dbus.map_err(DoorError::DbusStop)?;
        Ok(())
    }

    /// Turns clients away, at the end of a process that could not start, and leaves nothing behind.
    pub(crate) fn abandon(self) {
        if let Some(gdb) = self.gdb {
            gdb.stop();
        }
        #[cfg(feature = "dbus_api")]
        let _ = self.dbus.map(dbus::Server::stop);
        if let Some(Err(error)) = self.http.map(http::Server::abandon) {
            tracing::warn!("The API's socket does not end well: {error}");
        }
    }
}

fn gdb_path(flag: &str) -> Result<PathBuf, DoorError> {
    match Endpoint::parse_strict(flag) {
        Some(Endpoint::Path(path)) => Ok(path),
        _ => Err(DoorError::GdbSyntax),
    }
}

fn listen(endpoint: Endpoint) -> Result<http::Listen, DoorError> {
    Ok(match endpoint {
        Endpoint::Path(path) => http::Listen::Path(path),
        Endpoint::Fd(number) => {
            let fd = host::inherit::take(number);
            http::Listen::Fd(fd.map_err(|e| DoorError::ApiSocket(EndpointError::Closed(number, e)))?)
        }
    })
}

#[cfg(feature = "dbus_api")]
fn dbus_settings(cli: &Cli) -> Result<Option<Settings>, DoorError> {
    let bus = if cli.dbus_system_bus { Bus::System } else { Bus::Session };
    match (&cli.dbus_service_name, &cli.dbus_object_path) {
        (None, None) => Ok(None),
        (Some(_), None) => Err(DoorError::DbusFlag("dbus-object-path")),
        (None, Some(_)) => Err(DoorError::DbusFlag("dbus-service-name")),
        (Some(name), Some(path)) => {
            Ok(Some(Settings { service_name: name.clone(), object_path: path.clone(), bus }))
        }
    }
}
