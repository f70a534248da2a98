//! What the door writes to the log (`spec/rest-api.md` §7). On its own, since a process has one log.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};

use api::{ApiError, Code, Counters, EventLog, Reads, VmInfo, VmmPing};

struct NoVm(Arc<EventLog>);

impl Reads for NoVm {
    fn vmm_ping(&self) -> VmmPing {
        VmmPing { build_version: String::new(), version: String::new(), pid: 0, features: Vec::new() }
    }

    fn vm_info(&self) -> Result<VmInfo, ApiError> {
        Err(ApiError::new(Code::VmNotCreated, ["VM is\nnot created".into()]))
    }

    fn vm_counters(&self) -> Result<Counters, ApiError> {
        Ok(Counters::new())
    }

    fn events(&self) -> &Arc<EventLog> {
        &self.0
    }
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().map_err(|_| io::Error::other("a test failed"))?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn requests_errors_and_unknown_fields_are_logged() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).init();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let (client, inbox) = api::channel(Arc::new(NoVm(EventLog::new()))).unwrap();
    drop(inbox);
    let server = http::serve(http::bind(http::Listen::Path(path.clone())).unwrap(), client).unwrap();
    let body = r#"{"payload":{"kernel":"/k","kernal":1}}"#;
    for request in [
        "GET /api/v1/vmm.ping?secret HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /api/v1/vm.info HTTP/1.1\r\nConnection: close\r\n\r\n".to_owned(),
        format!("PUT /api/v1/vm.create HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        format!("BREW /{} HTTP/1.0\r\n\r\n", "x".repeat(5000)),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let mut peer = UnixStream::connect(&path).unwrap();
        peer.write_all(request.as_bytes()).unwrap();
        let mut reply = String::new();
        peer.read_to_string(&mut reply).unwrap();
        assert!(reply.starts_with("HTTP/1.1 "), "{reply}");
    }
    server.stop().unwrap();
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for line in [
        "INFO http::exchange: HTTP API request: GET /api/v1/vmm.ping\n",
        "INFO http::reply: HTTP API error response: Error from API: The VM info is not available: VM is?not created\n",
        "WARN http::exchange: vm.create: unknown field: payload.kernal\n",
        "INFO http::reply: HTTP API error response: Not Found\n",
        "INFO http::reply: HTTP API error response: Bad Request: This is no HTTP/1 request\n",
    ] {
        assert!(log.contains(line), "{line} is missing in\n{log}");
    }
    assert!(log.lines().all(|line| line.len() < 700));
}
