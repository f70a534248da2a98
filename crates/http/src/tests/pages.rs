//! Paths that are no verbs.

use serde_json::Value;

use super::{House, PING};

#[test]
fn the_openapi_document_is_served_as_it_is_checked_in() {
    let house = House::new();
    let mut peer = house.connect();
    let reply = peer.ask("GET /api/v1/openapi.json?x HTTP/1.1\r\n\r\n");
    let checked_in = include_str!("../../../../docs/openapi.json");
    let head = format!(
        "HTTP/1.1 200 \r\nServer: Cloud Hypervisor API\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        checked_in.len()
    );
    assert_eq!(reply.head, head);
    assert!(reply.body == checked_in);
    assert_eq!(serde_json::from_str::<Value>(&reply.body).unwrap()["openapi"], "3.0.3");

    peer.send("HEAD /api/v1/openapi.json HTTP/1.1\r\n\r\n");
    assert_eq!(peer.head().head, head);
    assert_eq!(peer.ask(PING).status, 200);
}

#[test]
fn pages_are_read_only() {
    let house = House::new();
    let mut peer = house.connect();
    for page in crate::PAGES {
        for path in [Some(format!("{}{}", api::ROOT, page.name)).as_deref(), page.alias].into_iter().flatten()
        {
            let reply = peer.ask(&format!("PUT {path} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}"));
            assert_eq!((reply.status, reply.header("Allow")), (405, Some("GET, HEAD")), "{path}");
        }
    }
    for path in [
        "/openapi.json",
        "/api/v1/openapi",
        "/api/v1/openapi.json/",
        "/api/v1/metrics.json",
        "/metrics/",
        "/events",
    ] {
        assert_eq!(peer.ask(&format!("GET {path} HTTP/1.1\r\n\r\n")).status, 404, "{path}");
    }
}
