//! Sockets between guest and host. The guest's side is `tools/vmguest`.

use super::hotplug;
use serde_json::json;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use vmtest::context::{Context, rounds};
use vmtest::host;
use vmtest::process::Leftovers;
use vmtest::vm::{Builder, Vm};
use vmtest::wait::{self, Patient};

vmtest::tests![
    vsock: to_the_guest, to_the_host, half_closed, refused, many_at_once, a_deaf_peer, paused_and_rebooted, added_and_removed,
    comes_and_goes,
];

pub(crate) const CID: u32 = 7;
const DATA_MIB: u64 = 4;

pub(crate) fn socket(context: &Context) -> PathBuf {
    context.path("vsock")
}

fn boot(context: &Context) -> Vm {
    Builder::new(context).with("vsock", json!({"cid": CID, "socket": socket(context)})).boot()
}

/// Starts a program of the guest's that goes on while others run.
pub(crate) fn start(vm: &Vm, command: &str) {
    vm.ok(&format!("({command}) </dev/null >/dev/null 2>&1 &"));
}

/// A connection to `port` of the guest's, once somebody listens there.
pub(crate) fn connect(context: &Context, port: u32) -> Patient<UnixStream> {
    wait::until(wait::COMMAND, "the guest to listen", || try_connect(context, port).ok())
}

/// A connection to `port` of the guest's, or the end that it has come to.
fn try_connect(context: &Context, port: u32) -> io::Result<Patient<UnixStream>> {
    let mut stream = Patient::new(UnixStream::connect(socket(context))?, wait::COMMAND);
    writeln!(stream.stream, "CONNECT {port}")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte)?;
        answer.extend(byte);
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("OK "), "{answer}");
    Ok(stream)
}

/// A program of the host's on `port`.
fn listen(context: &Context, port: u32) -> UnixListener {
    let listener = UnixListener::bind(format!("{}_{port}", socket(context).display())).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn accept(listener: &UnixListener) -> Patient<UnixStream> {
    let (stream, _) = wait::until(wait::COMMAND, "the guest to connect", || listener.accept().ok());
    stream.set_nonblocking(false).unwrap();
    Patient::new(stream, wait::COMMAND)
}

fn send_all(mut stream: &UnixStream, data: &[u8]) {
    stream.write_all(data).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

/// Sends `data` and reads what comes back meanwhile.
pub(crate) fn exchange(stream: Patient<UnixStream>, data: &[u8]) -> Vec<u8> {
    let writer = stream.stream.try_clone().unwrap();
    let mut stream = stream;
    thread::scope(|scope| {
        scope.spawn(move || send_all(&writer, data));
        let mut back = Vec::new();
        stream.read_to_end(&mut back).unwrap();
        back
    })
}

fn data(context: &Context) -> (PathBuf, Vec<u8>) {
    let path = context.path("sent");
    host::make_full_disk(&path, DATA_MIB);
    let data = std::fs::read(&path).unwrap();
    (path, data)
}

fn guest_sum(vm: &Vm, path: &str) -> String {
    vm.ok(&format!("sha256sum <{path}")).chars().take(64).collect()
}

fn sum_of(context: &Context, data: &[u8]) -> String {
    let path = context.path("received");
    std::fs::write(&path, data).unwrap();
    host::sha256(&path)
}

fn to_the_guest(context: &Context) {
    let vm = boot(context);
    let (path, data) = data(context);
    // What the guest got, and the same back again.
    start(&vm, "vmguest listen 50 >/tmp/in; touch /tmp/done");
    let stream = connect(context, 50);
    send_all(&stream.stream, &data);
    wait::until_true(wait::COMMAND, "the guest to receive all", || vm.run("test -e /tmp/done").status == 0);
    assert_eq!(guest_sum(&vm, "/tmp/in"), host::sha256(&path));
    drop(stream);
    start(&vm, "vmguest echo 51");
    let back = exchange(connect(context, 51), &data);
    assert_eq!(sum_of(context, &back), host::sha256(&path));
}

fn to_the_host(context: &Context) {
    let vm = boot(context);
    let listener = listen(context, 1234);
    vm.ok(&format!("dd if=/dev/urandom of=/tmp/out bs=1M count={DATA_MIB}"));
    // The same way back, so that both directions are full at the same time.
    start(&vm, "vmguest connect 2 1234 </tmp/out >/tmp/in; touch /tmp/done");
    let mut stream = accept(&listener);
    let mut received = Vec::new();
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut piece).unwrap();
        if count == 0 {
            break;
        }
        received.extend(&piece[..count]);
        stream.stream.write_all(&piece[..count]).unwrap();
    }
    drop(stream);
    assert_eq!(received.len() as u64, DATA_MIB << 20);
    assert_eq!(guest_sum(&vm, "/tmp/out"), sum_of(context, &received));
    wait::until_true(wait::COMMAND, "the guest to receive all", || vm.run("test -e /tmp/done").status == 0);
    assert_eq!(guest_sum(&vm, "/tmp/in"), guest_sum(&vm, "/tmp/out"));
}

fn half_closed(context: &Context) {
    let vm = boot(context);
    let listener = listen(context, 80);
    // The answer comes after the question's end, which the program must have seen.
    start(&vm, "echo question | vmguest connect 2 80 >/tmp/answer; touch /tmp/done");
    let mut stream = accept(&listener);
    let mut question = String::new();
    stream.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question\n");
    stream.stream.write_all(b"answer\n").unwrap();
    drop(stream);
    wait::until_true(wait::COMMAND, "the guest to end", || vm.run("test -e /tmp/done").status == 0);
    assert_eq!(vm.ok("cat /tmp/answer"), "answer");
    // And the other way round.
    start(&vm, "vmguest echo 51");
    assert_eq!(exchange(connect(context, 51), b"said before the end"), b"said before the end");
}

fn refused(context: &Context) {
    let vm = boot(context);
    // Nobody listens on the host; in the guest; where nobody knows the command.
    let output = vm.run("vmguest connect 2 99 </dev/null");
    assert_eq!(output.status, 1, "{}", output.stdout);
    assert!(output.stdout.contains("reset"), "{}", output.stdout);
    assert_eq!(try_connect(context, 99).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    let mut stream = Patient::new(UnixStream::connect(socket(context)).unwrap(), wait::COMMAND);
    stream.stream.write_all(b"HELLO\n").unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    // All goes on.
    start(&vm, "vmguest echo 51");
    assert_eq!(exchange(connect(context, 51), b"still there"), b"still there");
}

fn many_at_once(context: &Context) {
    const MANY: usize = 64;
    let vm = boot(context);
    start(&vm, "vmguest echo 51");
    connect(context, 51);
    let streams: Vec<_> = (0..MANY).map(|_| try_connect(context, 51).unwrap()).collect();
    for (index, stream) in streams.into_iter().enumerate() {
        let text = format!("connection {index}");
        assert_eq!(exchange(stream, text.as_bytes()), text.as_bytes());
    }
    let listener = listen(context, 80);
    listener.set_nonblocking(false).unwrap();
    thread::spawn(move || {
        let mut streams = Vec::new();
        for _ in 0..MANY {
            streams.push(listener.accept().unwrap().0);
        }
        for stream in streams {
            let mut text = Vec::new();
            (&stream).read_to_end(&mut text).unwrap();
            (&stream).write_all(&text).unwrap();
        }
    });
    assert_eq!(vm.ok(&format!("vmguest many 2 80 {MANY}")), MANY.to_string());
}

fn a_deaf_peer(context: &Context) {
    let vm = boot(context);
    start(&vm, "vmguest echo 51");
    start(&vm, "vmguest deaf 52");
    // A program of the guest's that reads nothing: the socket takes what guest and kernel keep, then no more.
    let deaf = connect(context, 52);
    deaf.stream.set_nonblocking(true).unwrap();
    let mut sent = 0;
    let mut is_full = |mut stream: &UnixStream| match stream.write(&[0; 4096]) {
        Ok(count) => {
            sent += count;
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            true
        }
    };
    while !is_full(&deaf.stream) {}
    assert_eq!(exchange(connect(context, 51), b"to one"), b"to one");
    // One of the host's.
    let listener = listen(context, 80);
    start(&vm, "vmguest connect 2 80 </dev/zero");
    let idle = accept(&listener);
    assert_eq!(exchange(connect(context, 51), b"to another"), b"to another");
    let (_, data) = data(context);
    assert_eq!(sum_of(context, &exchange(connect(context, 51), &data)), host::sha256(&context.path("sent")));
    drop((idle, deaf));
}

fn paused_and_rebooted(context: &Context) {
    let vm = boot(context);
    start(&vm, "vmguest echo 51");
    let mut stream = connect(context, 51);
    vm.api().put("vm.pause").expect(204);
    stream.stream.write_all(b"meanwhile").unwrap();
    vm.api().put("vm.resume").expect(204);
    let mut back = [0; 9];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"meanwhile");
    vm.api().put("vm.reboot").expect(204);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the stream has ended with its machine");
    vm.wait_ready();
    start(&vm, "vmguest echo 51");
    assert_eq!(exchange(connect(context, 51), b"again"), b"again");
    vm.api().put("vm.shutdown").expect(204);
    assert!(!socket(context).exists());
}

/// Before the boot, and between two boots.
fn added_and_removed(context: &Context) {
    let vm = Builder::new(context).grant(Path::new(&context.dir)).start();
    vm.create();
    let section = json!({"cid": CID, "socket": socket(context), "id": "v"});
    vm.api().put_json("vm.add-vsock", &section).expect(204);
    let second = vm.api().put_json("vm.add-vsock", &section).expect(409);
    assert!(second.body.contains("Too many virtio-vsock devices"), "{}", second.body);
    vm.boot();
    vm.wait_ready();
    start(&vm, "vmguest echo 51");
    assert_eq!(exchange(connect(context, 51), b"added"), b"added");
    vm.api().put("vm.shutdown").expect(204);
    vm.api().put_json("vm.remove-device", &json!({"id": "v"})).expect(204);
    vm.boot();
    vm.wait_ready();
    assert!(!socket(context).exists());
}

/// To a running guest, where somebody listens all the while. Each time another address, and a connection that is open at the end.
fn comes_and_goes(context: &Context) {
    let vm = Builder::new(context).grant(&context.dir).boot();
    let (path, data) = data(context);
    let listener = listen(context, 1234);
    start(&vm, "vmguest echo 51");
    let round = |number: usize| {
        let cid = CID + u32::try_from(number).unwrap();
        let section = json!({"cid": cid, "socket": socket(context), "id": "v"});
        let added = vm.api().put_json("vm.add-vsock", &section).expect(200).json();
        hotplug::wait_for(&vm, added["bdf"].as_str().unwrap(), true);
        assert_eq!(vm.ok("vmguest cid"), cid.to_string());
        let back = exchange(connect(context, 51), &data);
        assert_eq!(sum_of(context, &back), host::sha256(&path));
        start(&vm, "rm -f /tmp/in; vmguest connect 2 1234 </init >/tmp/in; touch /tmp/done");
        let mut stream = accept(&listener);
        send_all(&stream.stream, &data);
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        assert_eq!(sum_of(context, &received), guest_sum(&vm, "/init"));
        wait::until_true(wait::COMMAND, "the guest to end", || vm.run("rm /tmp/done").status == 0);
        assert_eq!(guest_sum(&vm, "/tmp/in"), host::sha256(&path));
        let mut open = connect(context, 51);
        hotplug::assert_agreement(&vm);
        hotplug::remove(&vm, "v");
        hotplug::assert_agreement(&vm);
        assert_eq!(open.read(&mut [0]).unwrap(), 0, "the stream has ended with its device");
        assert!(!socket(context).exists());
    };
    // The first fills what is made once.
    round(0);
    let leftovers = Leftovers::of(&vm.vmm);
    (1..=rounds(20)).for_each(round);
    leftovers.assert_none(&vm.vmm);
}
