//! What tools do not do: many calls at once, large bodies, descriptors in numbers, wrong arguments.

use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::mpsc;

use api::{Code, MAX_BODY, MAX_DESCRIPTORS, ReplyTo};
use zbus::Fd;
use zbus::message::Flags;

use super::*;
use crate::door::CALLS;

const INVALID: &str = "org.freedesktop.DBus.Error.InvalidArgs";

/// A house whose `vm.boot` waits for the test.
fn with_a_long_boot() -> (House, mpsc::Receiver<ReplyTo<()>>) {
    let (sender, booting) = mpsc::channel();
    let house = House::with(move |command| match command {
        Command::VmBoot { reply, .. } => sender.send(reply).unwrap(),
        other => succeed(other),
    });
    (house, booting)
}

#[test]
fn reads_and_commands_are_answered_while_a_boot_runs() {
    let (house, booting) = with_a_long_boot();
    std::thread::scope(|scope| {
        let boot = scope.spawn(|| connect(&house).call("VmBoot", &()));
        let reply = booting.recv().unwrap();
        let caller = connect(&house);
        assert!(caller.call("VmmPing", &()).is_ok());
        assert!(caller.call("VmPause", &()).is_ok());
        assert_eq!(caller.call("VmInfo", &()).unwrap_err().0, Code::VmNotCreated.dbus_name());
        // What would wait for a write lock waits for nobody.
        let property = (api::dbus::INTERFACE, "Anything", zbus::Variant::from(1));
        let set = caller.connection.call_method(
            Some(NAME),
            PATH,
            Some("org.freedesktop.DBus.Properties"),
            "Set",
            &property,
        );
        assert!(caller.runtime.block_on(set).is_err());
        assert!(caller.call("VmmPing", &()).is_ok());
        assert!(!boot.is_finished());
        reply.send(Ok(()));
        assert!(boot.join().unwrap().is_ok());
    });
}

#[test]
fn too_many_calls_are_refused_and_the_others_answered() {
    let (house, booting) = with_a_long_boot();
    let caller = connect(&house);
    let call =
        |method| caller.connection.call_method(Some(NAME), PATH, Some(api::dbus::INTERFACE), method, &());
    caller.runtime.block_on(async {
        let mut boots: Vec<_> = (0..CALLS).map(|_| Box::pin(call("VmBoot"))).collect();
        // All are sent before the last one is.
        let send = std::future::poll_fn(|cx| {
            boots.iter_mut().for_each(|boot| assert!(boot.as_mut().poll(cx).is_pending()));
            std::task::Poll::Ready(())
        });
        send.await;
        let last = call("VmBoot");
        let error = told(last.await.unwrap_err());
        assert_eq!(error.0, "org.freedesktop.DBus.Error.LimitsExceeded");
        for _ in 0..CALLS {
            booting.recv().unwrap().send(Ok(()));
        }
        for boot in boots {
            assert!(boot.await.is_ok());
        }
        assert!(call("VmmPing").await.is_ok());
    });
}

#[test]
fn a_body_has_four_mebibytes() {
    let house = House::new();
    let caller = connect(&house);
    let config = r#"{"payload":{"kernel":"/k"}}"#;
    let body = format!("{config}{}", " ".repeat(MAX_BODY - config.len()));
    assert!(caller.call("VmCreate", &body).is_ok());
    for body in [body.clone() + " ", body.repeat(3)] {
        let (name, text) = caller.call("VmCreate", &body).unwrap_err();
        assert_eq!(name, Code::TooLarge.dbus_name(), "{text}");
    }
    assert!(caller.call("VmmPing", &()).is_ok());
}

#[test]
fn wrong_arguments_are_told() {
    let house = House::new();
    let caller = connect(&house);
    for name in ["Vmm", "vm_info", "VmResizeWithFds", "VmmPingWithFds"] {
        assert_eq!(
            caller.call(name, &()).unwrap_err().0,
            "org.freedesktop.DBus.Error.UnknownMethod",
            "{name}"
        );
    }
    for (name, text) in [
        caller.call("VmmPing", &"{}").unwrap_err(),
        caller.call("VmCreate", &()).unwrap_err(),
        caller.call("VmCreate", &7_u32).unwrap_err(),
        caller.call("VmAddNetWithFds", &"{}").unwrap_err(),
    ] {
        assert_eq!(name, INVALID, "{text}");
        assert!(text.contains(" takes \""), "{text}");
    }
    let (name, _) = caller.call("VmCreate", &"").unwrap_err();
    assert_eq!(name, Code::BadRequest.dbus_name());
}

/// Commands that want no reply get none, and are executed; the next reply is the next call's.
#[test]
fn a_call_without_reply_is_executed() {
    let (sender, paused) = mpsc::channel();
    let house = House::with(move |command| match command {
        Command::VmPause { reply, .. } => {
            reply.send(Ok(()));
            sender.send(()).unwrap();
        }
        other => succeed(other),
    });
    let caller = connect(&house);
    let silent = caller.message("VmPause").with_flags(Flags::NO_REPLY_EXPECTED).build(&()).unwrap();
    caller.runtime.block_on(caller.connection.send(&silent)).unwrap();
    paused.recv().unwrap();
    assert!(caller.call("VmmPing", &()).is_ok());
}

/// Reading ends of pipes; they end when the last copy of the other end is gone.
fn assert_closed(readers: Vec<PipeReader>) {
    for mut reader in readers {
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn descriptors_reach_the_verb_and_none_leaks() {
    let (sender, added) = mpsc::channel();
    let house = House::with(move |command| match command {
        Command::VmAddNet { body, reply } => {
            sender.send(body.descriptors.len()).unwrap();
            reply.send(Ok(None));
        }
        other => succeed(other),
    });
    let caller = connect(&house);
    let call = |method: &str, body: &str, sent: usize| {
        let (readers, writers): (Vec<_>, Vec<_>) = (0..sent).map(|_| std::io::pipe().unwrap()).unzip();
        let fds: Vec<_> = writers.iter().map(|writer| Fd::from(writer.as_fd())).collect();
        let result =
            caller.call(method, &(body, fds)).map(|reply| reply.body().deserialize::<String>().unwrap());
        drop(writers);
        assert_closed(readers);
        result
    };
    // Sixteen is what a bus lets through unless it is told otherwise.
    for sent in [0, 1, 2, 16] {
        assert_eq!(call("VmAddNetWithFds", r#"{"id":"n"}"#, sent), Ok(String::new()));
        assert_eq!(added.recv().unwrap(), sent);
    }
    for (method, body, sent, code) in [
        ("VmAddNetWithFds", "{", 3, Code::MalformedJson),
        ("VmAddDeviceWithFds", r#"{"path":"/d"}"#, 2, Code::BadRequest),
        ("VmAddDeviceWithFds", r#"{"path":"/d"}"#, 1, Code::NotImplemented),
        ("VmRestoreWithFds", r#"{"source_url":"file:///s"}"#, 1, Code::BadRequest),
    ] {
        assert_eq!(call(method, body, sent).unwrap_err().0, code.dbus_name(), "{method} {body}");
    }
    assert_eq!(call("VmAddNet", r#"{"id":"n"}"#, 2).unwrap_err().0, INVALID);
    assert!(added.try_recv().is_err());
}

/// An array may name one descriptor over and over, so that it is longer than what the kernel lets a message carry.
#[test]
fn a_long_array_of_descriptors_is_not_duplicated() {
    let house = House::new();
    let caller = connect(&house);
    let (reader, writer) = std::io::pipe().unwrap();
    let same: Vec<_> = (0..=MAX_DESCRIPTORS).map(|_| Fd::from(writer.as_fd())).collect();
    let message = caller.message("VmAddNetWithFds").build(&(r#"{"id":"n"}"#, same)).unwrap();
    let method = api::dbus::Method::find("VmAddNetWithFds").unwrap();
    let body = message.body();
    match crate::request::read(method, &body).unwrap_err() {
        crate::request::Refused::Request(error) => {
            assert!(error.to_string().contains("at most 253"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    drop((body, message, writer));
    assert_closed(vec![reader]);
}

#[test]
fn a_stop_lets_the_last_reply_through() {
    let (mut house, booting) = with_a_long_boot();
    let caller = connect(&house);
    std::thread::scope(|scope| {
        let boot = scope.spawn(|| caller.call("VmBoot", &()));
        let reply = booting.recv().unwrap();
        let server = house.server.take().unwrap();
        let stop = scope.spawn(|| server.stop());
        reply.send(Ok(()));
        assert!(stop.join().unwrap().is_ok());
        assert!(boot.join().unwrap().is_ok());
    });
    assert_eq!(caller.call("VmmPing", &()).unwrap_err().0, "org.freedesktop.DBus.Error.ServiceUnknown");
}

#[test]
fn the_end_of_the_bus_ends_only_the_door() {
    let mut house = House::new();
    house.daemon.process.kill().unwrap();
    house.server.take().unwrap().stop().unwrap();
    assert_eq!(house.client.reads().vmm_ping().pid, 7);
}
