//! Row by row of the transport table, `spec/rest-api.md` §1, and of what the keep list, `spec/README.md`, says of the socket.
//!
//! | row | tests, here if without a file |
//! |---|---|
//! | socket, path | `socket.rs`; `a_path_with_its_key_and_without` in the program's `tests/api_socket.rs` |
//! | descriptor | `socket.rs`: `a_listening_descriptor_is_used_as_it_is`; `api_socket.rs`: `a_descriptor_that_listens_already` |
//! | no option, file mode | `api_socket.rs`: `without_the_option_there_is_no_socket`, `nobody_else_may_connect` |
//! | versions | `close_is_honoured_and_http_1_0_closes_by_itself`, `limits.rs`: `what_is_not_http` |
//! | root | `paths_in_every_form` |
//! | methods | `calls.rs`: `wrong_methods_are_told_the_right_ones`, `head_on_reads_is_get_without_its_body` |
//! | keep-alive | `a_connection_is_kept_and_used_again`, `close_is_honoured_and_http_1_0_closes_by_itself` |
//! | concurrent connections | `limits.rs`: `there_is_room_for_256`, `a_thousand_clients_at_once`, `refusals_are_limited_too` |
//! | concurrency | `calls.rs`: `a_long_command_holds_nobody_up`; control's `reads_are_answered_while_a_boot_hangs` |
//! | pipelining | `pipelined_requests_are_answered_in_order` |
//! | header area | `limits.rs`: `heads_are_limited` |
//! | body | `ping_may_be_put_and_put_may_have_no_length`, `requests_may_come_byte_by_byte`, `chunked_bodies` |
//! | body limit, large bodies | `limits.rs`: `four_mebibytes_are_welcome`, `a_byte_more_is_not`; `api_socket.rs`: `large_bodies_pass_the_sandbox` |
//! | `Expect` | `expect_100_continue` |
//! | `Content-Type`, `Accept` | `unsupported_media_types_do_not_matter`, `calls.rs`: `errors_in_both_forms` |
//! | parse error aftermath | `one_mistake_gets_one_reply`, `limits.rs`: `what_is_not_http` |
//! | descriptors | `descriptors.rs`; `head_body_and_descriptors_may_come_in_one_message` |
//! | response layout | `one_read_of_1023_bytes_gets_the_whole_small_reply`, `a_204_has_no_body_and_says_so_by_leaving_headers_out`, `an_empty_200_says_its_length` |
//! | keep: status line, names of headers | `strict_client.rs`; every reply in these tests |
//! | error body | `calls.rs`: `every_code_reaches_the_client`, `unknown_paths` |
//! | keep: unknown fields | `calls.rs`: `unknown_fields_are_accepted_with_a_warning`; `tests/log.rs` |
//! | keep: 1023 bytes, once | `one_read_of_1023_bytes_gets_the_whole_small_reply`, `the_status_line_of_a_large_reply_comes_at_once`, `descriptors.rs`: `one_message_one_read` |
//! | keep: event monitor, version | `api_socket.rs`: `events_into_a_fifo`, `events_into_a_descriptor`, `the_version_comes_first` |
//! | keep: life cycle | control's tests; the guest tests `lifecycle` and `clients` |

use std::io::Read;
use std::net::Shutdown;

use super::{House, PING, put};

#[test]
fn one_read_of_1023_bytes_gets_the_whole_small_reply() {
    let house = House::new();
    let mut peer = house.connect();
    peer.send(PING);
    let mut bytes = [0; 1023];
    let read = peer.socket.read(&mut bytes).unwrap();
    let text = std::str::from_utf8(&bytes[..read]).unwrap();
    let body = r#"{"build_version":"v54.0.0","version":"54.0.0","pid":7,"features":["kvm"]}"#;
    let head = "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nContent-Type: application/json\r\nContent-Length: 73\r\n\r\n";
    assert_eq!(text, format!("{head}{body}"));
}

#[test]
fn the_status_line_of_a_large_reply_comes_at_once() {
    let house = House::new();
    let mut peer = house.connect();
    peer.send("GET /api/v1/vm.counters HTTP/1.1\r\n\r\n");
    let mut bytes = [0; 1023];
    assert_eq!(peer.socket.read(&mut bytes).unwrap(), 1023);
    assert!(bytes.starts_with(b"HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\n"));
}

#[test]
fn a_204_has_no_body_and_says_so_by_leaving_headers_out() {
    let reply = House::new().ask(&put("vm.boot", ""));
    assert_eq!(reply.head, "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\n\r\n");
}

#[test]
fn an_empty_200_says_its_length() {
    let reply = House::new().ask("PUT /api/v1/vmm.shutdown HTTP/1.1\r\n\r\n");
    assert_eq!((reply.status, reply.header("Content-Length")), (200, Some("0")));
    assert_eq!(reply.header("Content-Type"), Some("application/json"));
}

#[test]
fn a_connection_is_kept_and_used_again() {
    let house = House::new();
    let mut peer = house.connect();
    for _ in 0..50 {
        assert_eq!(peer.ask(PING).status, 200);
        assert_eq!(peer.ask(&put("vm.pause", "")).status, 204);
        assert_eq!(peer.ask("GET /nothing HTTP/1.1\r\n\r\n").status, 404);
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let house = House::new();
    let mut peer = house.connect();
    let create = put("vm.create", r#"{"payload":{"kernel":"/k"}}"#);
    peer.send([PING, &create, "GET /x HTTP/1.1\r\n\r\n", PING].concat());
    let statuses: Vec<_> = (0..4).map(|_| peer.reply().status).collect();
    assert_eq!(statuses, [200, 204, 404, 200]);
}

#[test]
fn requests_may_come_byte_by_byte() {
    let house = House::new();
    let mut peer = house.connect();
    for byte in put("vm.create", r#"{"payload":{"kernel":"/k"}}"#).into_bytes() {
        peer.send([byte]);
    }
    assert_eq!(peer.reply().status, 204);
}

#[test]
fn close_is_honoured_and_http_1_0_closes_by_itself() {
    let house = House::new();
    for request in [
        "GET /api/v1/vmm.ping HTTP/1.1\r\nConnection: close\r\n\r\n",
        "GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n",
    ] {
        let mut peer = house.connect();
        assert_eq!(peer.ask(request).status, 200);
        assert!(peer.is_over());
    }
    let mut peer = house.connect();
    let kept = "GET /api/v1/vmm.ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
    let reply = peer.ask(kept);
    assert_eq!(reply.head.lines().next(), Some("HTTP/1.1 200 "));
    assert_eq!(reply.header("Connection"), Some("keep-alive"));
    assert_eq!(peer.ask(kept).status, 200);
}

#[test]
fn a_client_that_ends_its_side_still_gets_the_reply() {
    let house = House::new();
    for request in [PING.to_owned(), put("vm.boot", "")] {
        let mut peer = house.connect();
        peer.send(request);
        peer.socket.shutdown(Shutdown::Write).unwrap();
        assert!(peer.reply().status < 300);
        assert!(peer.is_over());
    }
}

#[test]
fn chunked_bodies() {
    let house = House::new();
    let mut peer = house.connect();
    let head = "PUT /api/v1/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = "b\r\n{\"payload\":\r\n10\r\n{\"kernel\":\"/k\"}}\r\n0\r\nTrailer: x\r\n\r\n";
    assert_eq!(peer.ask(&[head, chunks].concat()).status, 204);
    let reply = peer.ask(&[head, "z\r\n"].concat());
    assert_eq!((reply.status, reply.header("X-Error-Code")), (400, Some("bad_request")));
    assert!(peer.is_over());
}

#[test]
fn a_body_that_ends_early_is_refused() {
    let house = House::new();
    let mut peer = house.connect();
    peer.send("PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: 10\r\n\r\n{");
    peer.socket.shutdown(Shutdown::Write).unwrap();
    let reply = peer.reply();
    assert_eq!((reply.status, reply.body.contains("The body is broken")), (400, true), "{}", reply.body);
    assert!(peer.is_over());
}

#[test]
fn expect_100_continue() {
    let house = House::new();
    let mut peer = house.connect();
    let body = r#"{"payload":{"kernel":"/k"}}"#;
    let request = put("vm.create", body).replace("Host", "Expect: 100-continue\r\nHost");
    peer.send(request.strip_suffix(body).unwrap());
    assert_eq!(peer.head().head, "HTTP/1.1 100 \r\n\r\n");
    peer.send(body);
    assert_eq!(peer.reply().status, 204);
    // What goes nowhere, or is too large, is not asked for.
    for head in [
        "PUT /api/v1/vm.none HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        "PUT /api/v1/vm.create HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4194305\r\n\r\n",
    ] {
        let mut peer = house.connect();
        assert!([404, 413].contains(&peer.ask(head).status));
        assert!(peer.is_over());
    }
}

#[test]
fn head_on_reads_is_get_without_its_body() {
    let house = House::new();
    let mut peer = house.connect();
    peer.send("HEAD /api/v1/vmm.ping HTTP/1.1\r\n\r\n");
    let reply = peer.head();
    assert_eq!((reply.status, reply.header("Content-Length")), (200, Some("73")));
    assert_eq!(peer.ask(PING).status, 200);
    peer.send("HEAD /api/v1/vm.boot HTTP/1.1\r\n\r\n");
    let reply = peer.head();
    assert_eq!((reply.status, reply.header("Allow")), (405, Some("PUT")));
    assert_eq!(peer.ask(PING).status, 200);
}

#[test]
fn paths_in_every_form() {
    let house = House::new();
    let mut peer = house.connect();
    for (target, status) in [
        ("/api/v1/vmm.ping?x=1&y", 200),
        ("http://localhost/api/v1/vmm.ping", 200),
        ("http://localhost/api/v1/vmm.ping?x", 200),
        ("/api/v1/vmm.ping/", 404),
        ("/api/v1/vmm%2eping", 404),
        ("/api/v1//vmm.ping", 404),
        ("/api/v1/", 404),
        ("/api/v1", 404),
        ("/vmm.ping", 404),
        ("/api/v2/vmm.ping", 404),
        ("/", 404),
        ("*", 404),
    ] {
        assert_eq!(peer.ask(&format!("GET {target} HTTP/1.1\r\n\r\n")).status, status, "{target}");
    }
}

#[test]
fn ping_may_be_put_and_put_may_have_no_length() {
    let house = House::new();
    let mut peer = house.connect();
    assert_eq!(peer.ask("PUT /api/v1/vmm.ping HTTP/1.1\r\n\r\n").status, 200);
    assert_eq!(peer.ask(&put("vmm.ping", "")).status, 200);
    assert_eq!(peer.ask("PUT /api/v1/vm.boot HTTP/1.1\r\n\r\n").status, 204);
    assert_eq!(peer.ask(&put("vm.info", "")).header("Allow"), Some("GET, HEAD"));
}

#[test]
fn upgrades_are_not_taken_up() {
    let house = House::new();
    let mut peer = house.connect();
    let request = "GET /api/v1/vmm.ping HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
    assert_eq!(peer.ask(request).status, 200);
    assert_eq!(peer.ask(PING).status, 200);
}

#[test]
fn unsupported_media_types_do_not_matter() {
    let house = House::new();
    let mut peer = house.connect();
    for field in [
        "Content-Type: text/plain",
        "Content-Type: ",
        "Content-Type: application/x-www-form-urlencoded",
        "Accept: text/html",
        "Accept: ;;,",
        "Accept-Encoding: gzip",
        "Accept-Encoding: identity;q=0",
    ] {
        let request =
            put("vm.create", r#"{"payload":{"kernel":"/k"}}"#).replace("Host", &format!("{field}\r\nHost"));
        assert_eq!(peer.ask(&request).status, 204, "{field}");
        let reply = peer.ask(&PING.replace("Host", &format!("{field}\r\nHost")));
        assert_eq!((reply.status, reply.header("Content-Type")), (200, Some("application/json")), "{field}");
        assert_eq!(reply.header("Content-Encoding"), None);
    }
}

/// Nothing behind a mistake is taken for a request: who knows where the next one would begin.
#[test]
fn one_mistake_gets_one_reply() {
    let house = House::new();
    let over_long = format!("GET /api/v1/vmm.ping HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(20 << 10));
    for mistake in [over_long.as_str(), "garbage\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n"] {
        let mut peer = house.connect();
        peer.send([mistake, PING, PING].concat());
        assert!((400..500).contains(&peer.reply().status));
        assert!(peer.is_over());
    }
}
