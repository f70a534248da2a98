//! `dist/dbus`: what it lets whom do on a bus that forbids what the system's bus forbids. Tests run as root, as `cargo xtask test` does.

use std::path::Path;

use super::*;

const POLICY: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist/dbus/org.cloudhypervisor.DBusApi1.conf");
const OURS: &str = "org.cloudhypervisor.Vm1";

/// The defaults of the system's bus (`/usr/share/dbus-1/system.conf`), with or without our policy.
fn configuration(with_policy: bool) -> String {
    let include = if with_policy { format!("<include>{POLICY}</include>") } else { String::new() };
    format!(
        r#"<busconfig>
        <type>system</type><listen>unix:tmpdir=/tmp</listen><auth>EXTERNAL</auth>
        <policy context="default">
            <allow user="*"/><deny own="*"/><deny send_type="method_call"/>
            <allow send_type="signal"/>
            <allow send_requested_reply="true" send_type="method_return"/>
            <allow send_requested_reply="true" send_type="error"/>
            <allow receive_type="method_call"/><allow receive_type="method_return"/>
            <allow receive_type="error"/><allow receive_type="signal"/>
            <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
        </policy>{include}</busconfig>"#
    )
}

fn settings(daemon: &Daemon, name: &str) -> Settings {
    Settings { service_name: name.into(), ..daemon.settings() }
}

#[test]
fn a_bus_without_our_policy_gives_no_names_out() {
    let daemon = Daemon::with_configuration(&configuration(false));
    let (client, _inbox) = fake_api();
    let error = serve(settings(&daemon, OURS), client).unwrap_err();
    assert!(error.to_string().contains("see that its policy lets this user own it"), "{error}");
}

#[test]
fn our_policy_is_for_root_and_our_names() {
    assert!(Path::new(POLICY).exists());
    let daemon = Daemon::with_configuration(&configuration(true));
    let (client, _inbox) = fake_api();
    assert!(serve(settings(&daemon, NAME), client.clone()).is_err());
    let server = serve(settings(&daemon, OURS), client).unwrap();
    let call = |uid: &str| {
        let mut busctl = daemon.program("setpriv");
        busctl.args(["--reuid", uid, "--clear-groups", "busctl", "--user", "call", OURS, PATH]);
        busctl.args([api::dbus::INTERFACE, "VmmPing"]).output().unwrap()
    };
    let output = call("0");
    assert!(output.status.success(), "{}", err(&output));
    let output = call("65534");
    assert!(
        !output.status.success() && err(&output).contains("Call failed: Access denied"),
        "{}",
        err(&output)
    );
    server.stop().unwrap();
}
