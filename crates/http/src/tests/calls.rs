//! Verbs, errors and warnings through the door.

use std::sync::mpsc;

use api::{ApiError, Code, Command};
use serde_json::{Value, json};

use super::{House, PING, put, succeed};
use crate::server::Limits;

fn body(reply: &super::Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

#[test]
fn wrong_methods_are_told_the_right_ones() {
    let house = House::new();
    let mut peer = house.connect();
    for (request, allow) in [
        ("POST /api/v1/vm.boot HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", "PUT"),
        ("GET /api/v1/vm.boot HTTP/1.1\r\n\r\n", "PUT"),
        ("PATCH /api/v1/vm.create HTTP/1.1\r\n\r\n", "PUT"),
        ("DELETE /api/v1/vm.info HTTP/1.1\r\n\r\n", "GET, HEAD"),
        ("OPTIONS /api/v1/vmm.ping HTTP/1.1\r\n\r\n", "GET, HEAD, PUT"),
        ("get /api/v1/vmm.ping HTTP/1.1\r\n\r\n", "GET, HEAD, PUT"),
        ("BREW /api/v1/vm.pause HTTP/1.1\r\n\r\n", "PUT"),
    ] {
        let reply = peer.ask(request);
        assert_eq!((reply.status, reply.header("Allow")), (405, Some(allow)), "{request}");
        assert_eq!(reply.header("X-Error-Code"), Some("method_not_allowed"));
        assert_eq!(reply.header("Server"), Some("Cloud Hypervisor API"));
        assert_eq!(body(&reply)[0], "Method Not Allowed");
    }
}

#[test]
fn unknown_paths() {
    let reply = House::new().ask("POST /api/v1/vm.fly HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(reply.head.lines().next(), Some("HTTP/1.1 404 "));
    assert_eq!((reply.header("Allow"), reply.header("X-Error-Code")), (None, Some("not_found")));
    assert_eq!(reply.body, r#"["Not Found"]"#);
}

#[test]
fn a_read_with_a_body_is_a_bad_request() {
    let house = House::new();
    for (method, name) in
        [("GET", "vmm.ping"), ("PUT", "vmm.ping"), ("GET", "vm.info"), ("GET", "vm.counters")]
    {
        let reply = house.ask(&put(name, "{}").replace("PUT", method));
        assert_eq!((reply.status, reply.header("X-Error-Code")), (400, Some("bad_request")), "{name}");
        assert_eq!(reply.body, r#"["Bad Request","This call takes no body"]"#, "{name}");
    }
}

#[test]
fn errors_in_both_forms() {
    let house = House::new();
    let mut peer = house.connect();
    let reply = peer.ask("GET /api/v1/vm.info HTTP/1.1\r\nAccept: */*, application/problem+json;q=0\r\n\r\n");
    assert_eq!((reply.status, reply.header("Content-Type")), (404, Some("application/json")));
    assert_eq!(reply.header("X-Error-Code"), Some("vm_not_created"));
    assert_eq!(body(&reply), json!(["Error from API", "The VM info is not available", "VM is not created"]));

    let accept = "Accept: text/html, Application/Problem+JSON;q=0.5";
    let reply = peer.ask(&format!("GET /api/v1/vm.info HTTP/1.1\r\n{accept}\r\n\r\n"));
    assert_eq!((reply.status, reply.header("Content-Type")), (404, Some("application/problem+json")));
    let problem = body(&reply);
    assert_eq!((&problem["status"], &problem["code"]), (&json!(404), &json!("vm_not_created")));
    assert_eq!(problem["chain"].as_array().unwrap().len(), 3);
}

#[test]
fn every_code_reaches_the_client() {
    let codes = Code::ALL;
    let mut next = codes.into_iter();
    let house = House::with(Limits::default(), move |command| {
        command.refuse(ApiError::new(next.next().unwrap(), ["why \"it\"\r\nfailed".into()]));
    });
    let mut peer = house.connect();
    for code in codes {
        let reply = peer.ask(&put("vm.boot", ""));
        assert_eq!((reply.status, reply.header("X-Error-Code")), (code.status(), Some(code.parts().1)));
        assert_eq!(reply.header("Allow"), (code.status() == 405).then_some("PUT"));
        assert_eq!(body(&reply), json!(["Error from API", "The VM could not boot", "why \"it\"\r\nfailed"]));
    }
}

#[test]
fn bodies_are_checked_before_the_loop_sees_them() {
    let house = House::with(Limits::default(), |command| panic!("{:?}", command.verb()));
    let mut peer = house.connect();
    for (request, code) in [
        (put("vm.create", ""), "bad_request"),
        (put("vm.create", "{"), "malformed_json"),
        (put("vm.boot", "{}"), "bad_request"),
        (PING.replace("Host", "Content-Length: 1\r\nHost") + "x", "bad_request"),
    ] {
        let reply = peer.ask(&request);
        assert_eq!((reply.status, reply.header("X-Error-Code")), (400, Some(code)), "{request}");
    }
}

#[test]
fn unknown_fields_are_accepted_with_a_warning() {
    let house = House::new();
    let mut peer = house.connect();
    let reply = peer.ask(&put("vm.create", r#"{"payload":{"kernel":"/k","kernal":1},"\"\r\n\\é":2}"#));
    assert_eq!(reply.status, 204);
    let warning = reply.header("Warning").unwrap();
    assert_eq!(warning, r#"299 - "unknown field: payload.kernal", 299 - "unknown field: ?????""#);

    let fields: Vec<_> = (0..500).map(|i| format!(",\"{i}{}\":0", "x".repeat(400))).collect();
    let reply =
        peer.ask(&put("vm.create", &format!(r#"{{"payload":{{"kernel":"/k"}}{}}}"#, fields.concat())));
    assert_eq!(reply.status, 204);
    assert!(reply.header("Warning").unwrap().ends_with(r#", 299 - "and more unknown fields""#));
}

#[test]
fn a_long_command_holds_nobody_up() {
    let (sender, held) = mpsc::channel();
    let house = House::with(Limits::default(), move |command| match command {
        Command::VmPause { .. } => sender.send(command).unwrap(),
        other => succeed(other),
    });
    let mut waiting = house.connect();
    waiting.send(put("vm.pause", ""));
    let command = held.recv().unwrap();
    let mut other = house.connect();
    assert_eq!(other.ask(PING).status, 200);
    assert_eq!(other.ask(&put("vm.boot", "")).status, 204);
    // One whose client has left troubles nobody either.
    let mut gone = house.connect();
    gone.send(put("vm.pause", ""));
    let abandoned = held.recv().unwrap();
    drop(gone);
    succeed(abandoned);
    succeed(command);
    assert_eq!(waiting.reply().status, 204);
    assert_eq!(waiting.ask(PING).status, 200);
}

#[test]
fn a_loop_that_is_gone_answers_503() {
    let mut house = House::new();
    house.end_loop();
    let reply = house.ask(&put("vm.boot", ""));
    assert_eq!((reply.status, reply.header("X-Error-Code")), (503, Some("unavailable")));
    assert_eq!(house.ask(PING).status, 200);
}
