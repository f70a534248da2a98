//! `ch-remote` against a server that plays the VMM: bytes sent, output and exit code of every subcommand.

#![cfg(test)]

mod feed;

use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};

use feed::feed;

const NO_CONTENT: &str = "HTTP/1.1 204 \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\r\n";

/// A reply with a body, as the VMM writes it.
fn reply(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} \r\nServer: Cloud Hypervisor API\r\nConnection: keep-alive\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

struct Server {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

struct Ran {
    request: String,
    stdout: String,
    stderr: String,
    code: i32,
}

impl Server {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        Self { directory, listener }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("api.sock")
    }

    fn spawn(&self, arguments: &[&str], stdin: &str) -> Output {
        run(&[&["--api-socket", self.socket().to_str().unwrap()], arguments].concat(), stdin)
    }

    /// Runs `ch-remote` with one connection answered by `reply`.
    fn run(&self, arguments: &[&str], stdin: &str, reply: &str) -> Ran {
        thread::scope(|scope| {
            let ran = scope.spawn(|| self.spawn(arguments, stdin));
            let (mut stream, _) = self.listener.accept().unwrap();
            let request = read_request(&mut stream);
            stream.write_all(reply.as_bytes()).unwrap();
            drop(stream);
            let output = ran.join().unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            Ran {
                request,
                stdout: text(output.stdout),
                stderr: text(output.stderr),
                code: output.status.code().unwrap(),
            }
        })
    }
}

fn run(arguments: &[&str], stdin: &str) -> Output {
    feed(Command::new(env!("CARGO_BIN_EXE_ch-remote")).args(arguments), stdin)
}

fn read_request(stream: &mut impl Read) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        request.push(byte[0]);
    }
    let head = String::from_utf8(request.clone()).unwrap();
    let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).unwrap();
    head + std::str::from_utf8(&body).unwrap()
}

fn request(line: &str, body: Option<&str>) -> String {
    let length = body.map(|body| format!("Content-Length: {}\r\n", body.len())).unwrap_or_default();
    format!("{line} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n{length}\r\n{}", body.unwrap_or_default())
}

/// A body whose fields are for the tests of `config` to check.
const ANY: Option<&str> = Some("any");

/// Arguments, request line after `/api/v1/`, body.
type Case = (&'static [&'static str], &'static str, Option<&'static str>);

#[rustfmt::skip]
const CASES: [Case; 39] = [
    (&["add-device", "path=/sys/d,id=v0"], "PUT vm.add-device", Some(r#"{"path":"/sys/d","x_exclude_mmap_bars":[],"id":"v0","pci_segment":0}"#)),
    (&["add-disk", "path=/d,readonly=on"], "PUT vm.add-disk", ANY),
    (&["add-fs", "tag=t,socket=/s"], "PUT vm.add-fs", ANY),
    (&["add-generic-vhost-user", "virtio_id=26,socket=/s,queue_sizes=[64]"], "PUT vm.add-generic-vhost-user", ANY),
    (&["add-net", "tap=tap0,mac=12:34:56:78:90:ab"], "PUT vm.add-net", ANY),
    (&["add-pmem", "file=/p,size=128M"], "PUT vm.add-pmem", ANY),
    (&["add-user-device", "socket=/u"], "PUT vm.add-user-device", ANY),
    (&["add-vdpa", "path=/dev/vhost-vdpa-0"], "PUT vm.add-vdpa", ANY),
    (&["add-vsock", "cid=3,socket=/v"], "PUT vm.add-vsock", Some(r#"{"cid":3,"socket":"/v","pci_segment":0}"#)),
    (&["boot"], "PUT vm.boot", None),
    (&["coredump", "file:///core"], "PUT vm.coredump", Some(r#"{"destination_url":"file:///core"}"#)),
    (&["cancel-job", "--id", "7"], "PUT vm.cancel-job", Some(r#"{"id":7}"#)),
    (&["jobs"], "GET vm.jobs", None),
    (&["snapshot", "destination_url=file:///s,parent=/p"], "PUT vm.snapshot", Some(r#"{"destination_url":"file:///s","parent":"/p"}"#)),
    (&["counters"], "GET vm.counters", None),
    (&["create"], "PUT vm.create", Some("the raw text\n")),
    (&["create", "-"], "PUT vm.create", Some("the raw text\n")),
    (&["delete"], "PUT vm.delete", None),
    (&["info"], "GET vm.info", None),
    (&["nmi"], "PUT vm.nmi", None),
    (&["pause"], "PUT vm.pause", None),
    (&["ping"], "GET vmm.ping", None),
    (&["power-button"], "PUT vm.power-button", None),
    (&["reboot"], "PUT vm.reboot", None),
    (&["receive-migration", "receiver_url=unix:/m"], "PUT vm.receive-migration", Some(r#"{"receiver_url":"unix:/m","memory_mode":"Precopy","zone_updates":[]}"#)),
    (&["remove-device", "_disk0"], "PUT vm.remove-device", Some(r#"{"id":"_disk0"}"#)),
    (&["resize", "--cpus", "4", "--memory", "2G", "--balloon", "1K"], "PUT vm.resize", Some(r#"{"desired_vcpus":4,"desired_ram":2147483648,"desired_balloon":1024}"#)),
    (&["resize", "--memory", "512"], "PUT vm.resize", Some(r#"{"desired_ram":512}"#)),
    (&["resize"], "PUT vm.resize", Some("{}")),
    (&["resize-disk", "--disk", "d0", "--size", "1M"], "PUT vm.resize-disk", Some(r#"{"id":"d0","desired_size":1048576}"#)),
    (&["resize-zone", "--id", "z0", "--size", "1G"], "PUT vm.resize-zone", Some(r#"{"id":"z0","desired_ram":1073741824}"#)),
    (&["restore", "source_url=file:///s"], "PUT vm.restore", Some(r#"{"source_url":"file:///s","prefault":false,"resume":false,"zone_updates":[]}"#)),
    (&["resume"], "PUT vm.resume", None),
    (&["send-migration", "destination_url=tcp:h:1,downtime_ms=7"], "PUT vm.send-migration", Some(r#"{"destination_url":"tcp:h:1","local":false,"preserve_source":false,"downtime_ms":7,"timeout_s":3600,"timeout_strategy":"Cancel","connections":1,"memory_mode":"Precopy"}"#)),
    (&["shutdown"], "PUT vm.shutdown", None),
    (&["shutdown-vmm"], "PUT vmm.shutdown", None),
    (&["snapshot", "file:///s"], "PUT vm.snapshot", Some(r#"{"destination_url":"file:///s"}"#)),
    (&["--output", "json", "info"], "GET vm.info", None),
    (&["snapshot", "file:not checked here"], "PUT vm.snapshot", Some(r#"{"destination_url":"file:not checked here"}"#)),
];

#[test]
fn every_subcommand_sends_its_request() {
    let server = Server::new();
    for (arguments, line, body) in CASES {
        let (method, verb) = line.split_once(' ').unwrap();
        let line = format!("{method} /api/v1/{verb}");
        let ran = server.run(arguments, "the raw text\n", NO_CONTENT);
        let sent_body = ran.request.split_once("\r\n\r\n").unwrap().1;
        let body = if body == ANY { Some(sent_body).filter(|sent| sent.starts_with('{')) } else { body };
        assert_eq!(ran.request, request(&line, body), "{arguments:?}");
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), ("", "", 0), "{arguments:?}");
    }
}

#[test]
fn defaults_are_spelled_out() {
    let ran = Server::new().run(&["add-disk", "path=/d"], "", NO_CONTENT);
    for field in [r#""path":"/d""#, r#""readonly":false"#, r#""num_queues":1"#, r#""queue_size":128"#] {
        assert!(ran.request.contains(field), "{field}: {}", ran.request);
    }
}

#[test]
fn a_configuration_is_sent_as_the_file_has_it() {
    let server = Server::new();
    let path = server.directory.path().join("vm.json");
    std::fs::write(&path, "{ \"payload\" : {} }").unwrap();
    let ran = server.run(&["create", path.to_str().unwrap()], "", NO_CONTENT);
    assert_eq!(ran.request, request("PUT /api/v1/vm.create", Some("{ \"payload\" : {} }")));
    let missing = server.spawn(&["create", "/nonexistent/vm.json"], "");
    let text = String::from_utf8(missing.stderr).unwrap();
    assert!(
        text.contains("  1: Error reading the configuration from /nonexistent/vm.json\n  2: No such file"),
        "{text}"
    );
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn descriptors_travel_beside_the_request() {
    let server = Server::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    // Unlike the original, a plain duplicate is inherited.
    let inherited = rustix::io::dup(&writer).unwrap();
    drop(writer);
    let argument = format!("id=n0,fd=[{}]", inherited.as_raw_fd());
    thread::scope(|scope| {
        let ran = scope.spawn(|| server.spawn(&["add-net", &argument], ""));
        let (mut stream, _) = server.listener.accept().unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = vec![0; 4096];
        let iov = &mut [IoSliceMut::new(&mut bytes)];
        let message = rustix::net::recvmsg(&stream, iov, &mut control, RecvFlags::empty()).unwrap();
        stream.write_all(NO_CONTENT.as_bytes()).unwrap();
        assert!(ran.join().unwrap().status.success());
        bytes.truncate(message.bytes);
        let request = String::from_utf8(bytes).unwrap();
        assert!(request.starts_with("PUT /api/v1/vm.add-net ") && !request.contains("fds"), "{request}");
        let fds: Vec<OwnedFd> = control
            .drain()
            .flat_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => fds.collect(),
                _ => Vec::new(),
            })
            .collect();
        let [fd] = fds.try_into().unwrap();
        drop(inherited);
        std::fs::File::from(fd).write_all(b"through").unwrap();
    });
    // Not to the end of it: programs of the tests beside this one may have inherited the writer too.
    let mut text = [0; 7];
    reader.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"through");
}

#[test]
fn replies_are_printed_as_they_came() {
    let server = Server::new();
    for (arguments, body, printed) in [
        (&["info"][..], r#"{"state":"Running", "x":1}"#, "{\"state\":\"Running\", \"x\":1}\n"),
        (&["counters"], "{}", "{}\n"),
        (&["ping"], r#"{"pid":1}"#, "{\"pid\":1}\n"),
        (
            &["add-disk", "path=/d"],
            r#"{"id":"_disk0","bdf":"0000:00:06.0"}"#,
            "{\"id\":\"_disk0\",\"bdf\":\"0000:00:06.0\"}\n",
        ),
        (&["shutdown-vmm"], "", "\n"),
        (&["--output", "table", "ping"], r#"{"pid":1}"#, "pid  1\n"),
        (&["info", "--output", "table"], r#"{"state":"Running"}"#, "State  Running\n"),
    ] {
        let ran = server.run(arguments, "", &reply(200, body));
        assert_eq!((ran.stdout.as_str(), ran.code), (printed, 0), "{arguments:?}");
    }
}

#[test]
fn refusals_end_with_the_servers_chain() {
    let server = Server::new();
    let ran = server.run(&["boot"], "", &reply(500, r#"["Error from API","The VM could not boot"]"#));
    let chain = "Error: ch-remote exited with the following chain of errors:\n  0: http client error\n  \
                 1: Server responded with InternalServerError\n  2: Error from API\n  3: The VM could not boot\n";
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), ("", chain, 1));
    let ran = server.run(&["add-fs", "tag=t,socket=/s"], "", &reply(409, r#"["Error from API"]"#));
    assert!(
        ran.stderr.contains("\n  1: Server responded with Conflict\n  2: Error from API\n"),
        "{}",
        ran.stderr
    );
    let ran = server.run(&["boot"], "", &reply(400, ""));
    assert!(
        ran.stderr.contains("\n  X: Can't get remote's error messages from JSON response: "),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.code, 1);
}

#[test]
fn a_broken_connection_is_an_error() {
    let server = Server::new();
    let ran = server.run(&["boot"], "", "");
    assert_eq!(ran.code, 1);
    assert!(
        ran.stderr.contains("  0: http client error\n  1: Error parsing the HTTP response"),
        "{}",
        ran.stderr
    );
    let nobody = run(&["--api-socket", "/nonexistent/s", "boot"], "");
    assert_eq!(nobody.status.code(), Some(1));
    let text = String::from_utf8(nobody.stderr).unwrap();
    assert!(text.contains("  1: Error opening HTTP socket /nonexistent/s\n  2: No such file"), "{text}");
}

#[test]
fn wrong_values_end_with_1_before_anything_is_sent() {
    let server = Server::new();
    for (arguments, why) in [
        (
            &["add-disk", "path=/d,colour=red"][..],
            "  0: Error in the arguments of add-disk\n  1: Error parsing --disk\n  2: Unknown option: colour\n",
        ),
        (&["send-migration", "unix:/m"], "Unknown option: unix:/m\n"),
        (&["receive-migration", "tcp:h:1"], "Unknown option: tcp:h:1\n"),
        (&["restore", "prefault=on"], "source_url missing\n"),
        (&["resize", "--cpus", "4K"], "  1: --cpus takes a number, not 4K\n"),
        (&["resize", "--memory", "lots"], "  1: --memory takes a size such as 512M, not lots\n"),
        (&["resize-disk", "--disk", "d", "--size", ""], "  1: --size takes a size"),
        (&["add-net", "fd=999"], "  1: Descriptor 999 was not left open for ch-remote"),
        // What the program has opened itself by then.
        (&["add-net", "fd=[3]"], "  1: Descriptor 3 was not left open for ch-remote"),
        (&["add-net", "fd=[4,5]"], "  1: Descriptor 4 was not left open for ch-remote"),
        (&["add-device", "fd=3"], "  1: Descriptor 3 was not left open for ch-remote"),
    ] {
        let output = server.spawn(arguments, "");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(why), "{arguments:?}: {text}");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}");
    }
    server.listener.set_nonblocking(true).unwrap();
    assert!(server.listener.accept().is_err());
}

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &[][..],
        &["--api-socket", "/s"],
        &["ping"],
        &["--api-socket", "/s", "fly"],
        &["--api-socket", "/s", "add-disk"],
        &["--api-socket", "/s", "remove-device"],
        &["--api-socket", "/s", "restore"],
        &["--api-socket", "/s", "snapshot"],
        &["--api-socket", "/s", "coredump"],
        &["--api-socket", "/s", "send-migration"],
        &["--api-socket", "/s", "resize-disk", "--disk", "d"],
        &["--api-socket", "/s", "resize-zone", "--size", "1G"],
        &["--api-socket", "/s", "boot", "now"],
        &["--api-socket", "/s", "--output", "xml", "info"],
        &["--api-socket", "/s", "wait"],
        &["--api-socket", "", "ping"],
        &["--api-socket", "/s", "create", ""],
    ] {
        let output = run(arguments, "");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{arguments:?}");
        assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: "), "{arguments:?}");
    }
}

#[test]
fn version_help_and_completions_need_no_vmm() {
    let text = |arguments: &[&str]| {
        let output = run(arguments, "");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let version = format!("ch-remote v{}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((text(&["--version"]), text(&["-V"])), (version.clone(), version));
    assert!(text(&["--help"]).contains("add-generic-vhost-user"));
    assert!(text(&["add-disk", "--help"]).contains("readonly=on|off"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(text(&["completions", shell]).contains("resize-zone"), "{shell}");
    }
}

#[test]
fn wait_looks_until_the_state_is_there() {
    let server = Server::new();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| server.spawn(&["wait", "--state", "Running"], ""));
        for answer in [
            reply(404, r#"["Error from API"]"#),
            reply(200, r#"{"state":"Created"}"#),
            reply(200, r#"{"state":"Running"}"#),
        ] {
            let (mut stream, _) = server.listener.accept().unwrap();
            assert_eq!(read_request(&mut stream), request("GET /api/v1/vm.info", None));
            stream.write_all(answer.as_bytes()).unwrap();
        }
        let output = waiting.join().unwrap();
        assert_eq!((output.status.code(), output.stdout.len(), output.stderr.len()), (Some(0), 0, 0));
    });
    let late = server.run(
        &["wait", "--state", "paused", "--timeout", "0"],
        "",
        &reply(200, r#"{"state":"Running"}"#),
    );
    assert_eq!(late.code, 1);
    assert!(late.stderr.contains("The VM is not Paused in time: "), "{}", late.stderr);
}

#[test]
fn console_joins_the_socket_of_the_serial_port() {
    let server = Server::new();
    let serial = server.directory.path().join("serial");
    let listener = UnixListener::bind(&serial).unwrap();
    let info = format!(r#"{{"config":{{"serial":{{"mode":"Socket","socket":"{}"}}}}}}"#, serial.display());
    thread::scope(|scope| {
        let guest = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let mut keys = [0; 5];
            stream.read_exact(&mut keys).unwrap();
            stream.write_all(b"login: ").unwrap();
            keys
        });
        let ran = server.run(&["console"], "root\n", &reply(200, &info));
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str(), ran.code), ("login: ", "", 0));
        assert_eq!(&guest.join().unwrap(), b"root\n");
    });
    let ran = server.run(&["console"], "", &reply(200, r#"{"config":{"serial":{"mode":"Off"}}}"#));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("The VM has no such console"), "{}", ran.stderr);
}

#[test]
fn events_are_followed_until_the_vmm_ends() {
    let event = r#"{"timestamp":{"secs":0,"nanos":1},"source":"vm","event":"booted","properties":null}"#;
    let stream = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: events\n\nid: 7\ndata: {event}\n\n"
    );
    let server = Server::new();
    let ran = server.run(&["events"], "", &stream);
    assert_eq!((ran.stdout, ran.code), (format!("{event}\n"), 0));
    assert_eq!(ran.request, "GET /api/v1/events HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let ran = server.run(&["--output", "table", "events", "--all"], "", &stream);
    assert_eq!(ran.stdout, "     0.000000  vm             booted\n");
    assert!(ran.request.contains("\r\nLast-Event-ID: 0\r\n"), "{}", ran.request);
    let ran = server.run(&["events"], "", &reply(503, r#"["Service Unavailable"]"#));
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("Service Unavailable"), "{}", ran.stderr);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error_to_tell() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_ch-remote"));
    let program = command.args(["completions", "bash"]).stdout(writer).stderr(std::process::Stdio::piped());
    let output = program.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(1), Vec::new()));
}
