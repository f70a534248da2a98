//! `ch-remote events` on a bus that has more to tell, from the moment it is asked, than a client keeps. No real bus can be made to
//! do so at a moment of the test's choosing: this one is the test's own.

#![cfg(test)]
#![cfg(feature = "dbus_api")]

use std::future::poll_fn;
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use api::dbus::{EVENT, INTERFACE};
use dbus::testing::{NAME, PATH};
use zbus::connection::Builder;
use zbus::export::futures_core::Stream;
use zbus::{Connection, Guid, Message};

/// The VMM on this bus.
const OWNER: &str = ":1.0";
/// Twice what a connection keeps for whoever is not reading yet.
const EVENTS: usize = 128;
/// Long enough for any machine that is not stuck.
const LIMIT: Duration = Duration::from_secs(60);

/// Serves one client, which hears of every event as soon as it wants events, and then of the VMM's end.
async fn serve(client: UnixStream) -> zbus::Result<()> {
    let mut calls =
        Builder::unix_stream(client).server(Guid::generate()).p2p().build_message_stream().await?;
    let connection = Connection::from(&calls);
    while let Some(call) = poll_fn(|cx| Pin::new(&mut calls).poll_next(cx)).await.transpose()? {
        let header = call.header();
        match header.member().map(|name| name.as_str()) {
            Some("GetNameOwner") => connection.reply(&header, &OWNER).await?,
            Some("AddMatch") => {
                connection.reply(&header, &()).await?;
                if call.body().deserialize::<String>()?.contains(EVENT) {
                    flood(&connection).await?;
                }
            }
            _ => connection.reply(&header, &":1.1").await?,
        }
    }
    Ok(())
}

async fn flood(connection: &Connection) -> zbus::Result<()> {
    for number in 0..EVENTS {
        let event = Message::signal(PATH, INTERFACE, EVENT).sender(OWNER);
        connection.send(&event.build(&number.to_string())?).await?;
    }
    let bus = "org.freedesktop.DBus";
    let end = Message::signal("/org/freedesktop/DBus", bus, "NameOwnerChanged").sender(bus);
    connection.send(&end.build(&(NAME, OWNER, ""))?).await
}

#[test]
fn events_that_come_at_once_are_all_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let listener = UnixListener::bind(&path).unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        // The client hangs up in the end.
        let _ = runtime.block_on(serve(listener.accept().unwrap().0));
    });
    let mut remote = Command::new(env!("CARGO_BIN_EXE_ch-remote"));
    remote.env("DBUS_SESSION_BUS_ADDRESS", format!("unix:path={}", path.display()));
    remote.args(["--dbus-service-name", NAME, "--dbus-object-path", PATH, "events"]).stdin(Stdio::null());
    let (sender, ended) = mpsc::channel();
    thread::spawn(move || sender.send(remote.output().unwrap()));
    let output = ended.recv_timeout(LIMIT).expect("ch-remote waits for a reply that waits behind the events");
    let told: Vec<usize> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(told, Vec::from_iter(0..EVENTS), "{}", String::from_utf8_lossy(&output.stderr));
}
