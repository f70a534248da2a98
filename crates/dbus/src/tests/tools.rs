//! Every method through `busctl` (sd-bus) and `gdbus` (GLib), and what they see of the object.

use api::dbus::{INTERFACE, Method};

use super::*;

/// What a call of `method` that cannot fail in its arguments comes to behind the door, in both tools' words.
fn check(method: Method, output: &Output, tool: &str) {
    let (verb, text) = (method.verb, err(output));
    let name = method.name();
    if verb.has_body {
        assert!(text.contains("Failed to deserialize JSON"), "{tool} {name}: {text}");
        if tool == "gdbus" {
            assert!(text.contains(&api::Code::MalformedJson.dbus_name()), "{name}: {text}");
        }
    } else if ["vmm.ping", "vm.counters", "vm.jobs"].contains(&verb.name) {
        assert!(output.status.success() && out(output).contains('{'), "{tool} {name}: {text}");
    } else if output.status.success() {
        assert!(["", "()"].contains(&out(output).as_str()), "{tool} {name}: {}", out(output));
    } else {
        assert!(text.contains(verb.fails), "{tool} {name}: {text}");
    }
}

#[test]
fn every_method_answers_both_tools() {
    let house = House::new();
    for method in Method::all() {
        let name = method.name();
        let (busctl, gdbus): (&[&str], &[&str]) = match (method.verb.has_body, method.with_fds) {
            (false, _) => (&[&name], &[&name]),
            (true, false) => (&[&name, "s", "{"], &[&name, "'{'"]),
            (true, true) => (&[&name, "sah", "{", "0"], &[&name, "'{'", "@ah []"]),
        };
        check(method, &house.busctl(busctl), "busctl");
        check(method, &house.gdbus(gdbus), "gdbus");
    }
}

/// The words of both tools: a reply, none, and an error with its whole chain.
#[test]
fn replies_and_errors_in_both_tools_words() {
    let house = House::with(|command| match command {
        Command::VmAddDisk { reply, .. } => reply.send(Ok(None)),
        Command::VmBoot { reply, .. } => {
            let chain = ["Error building the VM".into(), "No such file or directory".into()];
            reply.send(Err(api::ApiError::new(api::Code::InvalidConfig, chain)));
        }
        other => succeed(other),
    });
    let ping = r#"{"build_version":"v54.0.0","version":"54.0.0","pid":7,"features":["kvm"]}"#;
    assert_eq!(out(&house.busctl(&["VmmPing"])), format!("s {ping:?}"));
    assert_eq!(out(&house.gdbus(&["VmmPing"])), format!("('{ping}',)"));
    assert_eq!(out(&house.busctl(&["VmAddDisk", "s", r#"{"path":"/d"}"#])), "s \"\"");
    assert_eq!(out(&house.busctl(&["VmCreate", "s", r#"{"payload":{"kernel":"/k"}}"#])), "");
    assert_eq!(out(&house.gdbus(&["VmPause"])), "()");
    assert_eq!(out(&house.gdbus(&["VmmShutdown"])), "()");
    let chain = "The VM could not boot\nError building the VM\nNo such file or directory";
    let boot = house.busctl(&["VmBoot"]);
    assert_eq!((err(&boot), boot.status.code()), (format!("Call failed: {chain}"), Some(1)));
    let error = format!("Error: GDBus.Error:{}: {chain}", api::Code::InvalidConfig.dbus_name());
    assert_eq!(err(&house.gdbus(&["VmBoot"])), error);
}

/// `busctl introspect` shows the table and nothing else.
#[test]
fn introspection_is_the_table() {
    let house = House::new();
    let mut busctl = house.daemon.program("busctl");
    let output = busctl.args(["--user", "introspect", "--list", NAME, PATH, INTERFACE]).output().unwrap();
    let text = out(&output);
    let mut seen: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().take(4).collect::<Vec<_>>())
        .filter(|words| words.first().is_some_and(|name| name.starts_with('.')))
        .collect();
    let mut expected: Vec<Vec<String>> = Method::all()
        .map(|method| {
            let arguments = match (method.verb.has_body, method.with_fds) {
                (false, _) => "-",
                (true, false) => "s",
                (true, true) => "sah",
            };
            let reply = if method.verb.has_reply { "s" } else { "-" };
            [&format!(".{}", method.name()), "method", arguments, reply].map(|word| word.to_owned()).to_vec()
        })
        .collect();
    expected.push([".Event", "signal", "s", "-"].map(str::to_owned).to_vec());
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "{text}{}", err(&output));
}

/// GLib's parser is stricter than sd-bus': it takes the document, and tells the arguments' names.
#[test]
fn arguments_have_names() {
    let house = House::new();
    let mut gdbus = house.daemon.program("gdbus");
    let output =
        gdbus.args(["introspect", "--session", "--dest", NAME, "--object-path", PATH]).output().unwrap();
    let text: String = out(&output).split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "VmAddNetWithFds(in s net_config, in ah descriptors, out s reply);",
        "VmResizeZone(in s vm_resize_zone);",
        "VmNmi();",
        "VmmPing(out s reply);",
        "Event(s record);",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
}

#[test]
fn the_name_is_taken_by_one_only_and_given_back() {
    let mut house = House::new();
    let (client, _inbox) = fake_api();
    let again = || serve(house.daemon.settings(), client.clone());
    let error = again().unwrap_err();
    assert!(matches!(&error, ServeError::NameTaken(name) if name == NAME), "{error}");
    house.server.take().unwrap().stop().unwrap();
    serve(house.daemon.settings(), client).unwrap().stop().unwrap();
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let daemon = Daemon::new();
    let (client, _inbox) = fake_api();
    let refused = |settings| serve(settings, client.clone()).unwrap_err().to_string();
    let name = refused(Settings { service_name: "vm".into(), ..daemon.settings() });
    assert!(name.contains("\"vm\" is no D-Bus name") && name.contains("org.example.Vm1"), "{name}");
    let path = refused(Settings { object_path: "org/vm".into(), ..daemon.settings() });
    assert!(path.contains("\"org/vm\" is no D-Bus object path"), "{path}");
    let nobody = refused(Settings { bus: Bus::At("unix:path=/nowhere/bus".into()), ..daemon.settings() });
    assert!(nobody.contains("Error connecting to the bus at unix:path=/nowhere/bus"), "{nobody}");
    let reserved = refused(Settings { service_name: "org.freedesktop.DBus".into(), ..daemon.settings() });
    assert!(reserved.contains("does not give out the name org.freedesktop.DBus"), "{reserved}");
}
