use super::*;
use crate::peer::Writing;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use host::{ControlOperation, EpollEvent, EventSet};

/// A stream as the thread that serves it sees it.
struct Served {
    stream: Stream,
    outer: Epoll,
}

impl Served {
    fn new(stream: Stream) -> Self {
        let outer = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        outer.ctl(ControlOperation::Add, stream.as_raw_fd(), event).unwrap();
        Self { stream, outer }
    }

    fn open(config: &plan::Stream) -> Self {
        Self::new(Stream::open(config).unwrap().unwrap())
    }

    fn is_due(&self, timeout_ms: i32) -> bool {
        self.outer.wait(timeout_ms, &mut [EpollEvent::default()]).unwrap() == 1
    }

    /// Waits until there is something to do, and does it.
    fn turn(&self, room: usize) -> Vec<u8> {
        assert!(self.is_due(20_000), "nothing happened");
        let mut input = vec![0; room];
        let count = self.stream.service(&mut input);
        input.truncate(count);
        input
    }

    /// Turns until `wanted` bytes of input have come.
    fn input(&self, wanted: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < wanted {
            all.extend(self.turn(wanted - all.len()));
        }
        all
    }
}

fn socket() -> (Served, tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("serial.sock");
    (Served::open(&plan::Stream::Socket(path.clone())), dir, path)
}

fn read(peer: &mut impl Read, count: usize) -> Vec<u8> {
    let mut data = vec![0; count];
    peer.read_exact(&mut data).unwrap();
    data
}

#[test]
fn null_takes_everything_and_needs_nobody() {
    let stream = Stream::open(&plan::Stream::Null).unwrap().unwrap();
    stream.write(&[0; 4096]);
    assert!(!stream.needs_service());
    assert_eq!((stream.service(&mut [0; 8]), stream.slave(), stream.size()), (0, None, None));
}

#[test]
fn a_file_is_emptied_and_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    std::fs::write(&path, "what was there before").unwrap();
    let stream = Stream::open(&plan::Stream::File(path.clone())).unwrap().unwrap();
    assert!(!stream.needs_service());
    stream.write(b"hello ");
    stream.write(&[b'x'; 10_000]);
    let text = std::fs::read(&path).unwrap();
    assert_eq!((&text[..6], text.len()), (&b"hello "[..], 10_006));
}

#[test]
fn a_file_that_is_emptied_in_use_gets_no_hole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let stream = Stream::open(&plan::Stream::File(path.clone())).unwrap().unwrap();
    stream.write(b"yesterday");
    File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
    stream.write(b"today");
    assert_eq!(std::fs::read(&path).unwrap(), b"today");
}

#[test]
fn a_fifo_needs_no_reader_and_keeps_output_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let served = Served::open(&plan::Stream::File(path.clone()));
    assert!(served.stream.needs_service());
    served.stream.write(b"early");
    let mut reader = File::open(&path).unwrap();
    assert_eq!(read(&mut reader, 5), b"early");
    drop(reader);
    served.stream.write(&[7; 200_000]);
    let mut reader = File::open(&path).unwrap();
    let mut got = Vec::new();
    while got.len() < 200_000 {
        got.extend(read(&mut reader, 50_000));
        if got.len() < 200_000 {
            served.turn(0);
        }
    }
    assert!(got.iter().all(|byte| *byte == 7));
}

#[test]
fn a_file_that_takes_no_characters_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = Stream::open(&plan::Stream::File(path.clone())).err().unwrap();
    assert!(matches!(&error, Error::NotForOutput { path: named } if *named == path), "{error}");
    let error = Stream::open(&plan::Stream::File(dir.path().into())).err().unwrap();
    assert!(matches!(&error, Error::File { source, .. } if source.kind() == ErrorKind::IsADirectory));
}

#[test]
fn what_cannot_be_opened_is_named() {
    let missing = PathBuf::from("/nonexistent/console");
    for config in [plan::Stream::File(missing.clone()), plan::Stream::Socket(missing)] {
        let error = Stream::open(&config).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/console"), "{error}");
        assert!(error.to_string().contains("check the directory"), "{error}");
    }
}

#[test]
fn what_is_at_a_socket_s_path_already_stays_and_so_does_what_comes_there() {
    let (served, _dir, path) = socket();
    let error = Stream::open(&plan::Stream::Socket(path.clone())).err().unwrap();
    assert!(error.to_string().contains("earlier run"), "{error}");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "precious").unwrap();
    drop(served);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_client_gets_what_was_said_before_it_came() {
    let (served, dir, path) = socket();
    served.stream.write(b"early ");
    let mut client = UnixStream::connect(&path).unwrap();
    assert_eq!(served.turn(8), b"");
    served.stream.write(b"late");
    assert_eq!(read(&mut client, 10), b"early late");
    client.write_all(b"typed").unwrap();
    assert_eq!(served.input(5), b"typed");
    drop(served);
    assert!(!path.exists() && dir.path().exists());
}

#[test]
fn a_new_client_replaces_the_old_one() {
    let (served, _dir, path) = socket();
    let mut first = UnixStream::connect(&path).unwrap();
    served.turn(8);
    let mut second = UnixStream::connect(&path).unwrap();
    served.turn(8);
    assert_eq!(first.read(&mut [0; 8]).unwrap(), 0);
    served.stream.write(b"for the second");
    assert_eq!(read(&mut second, 14), b"for the second");
    drop(second);
    served.stream.write(b"kept");
    let mut third = UnixStream::connect(&path).unwrap();
    // The end of the second and the coming of the third may be told in one turn or two.
    third.set_nonblocking(true).unwrap();
    let mut data = [0; 8];
    let count = loop {
        match third.read(&mut data) {
            Ok(count) => break count,
            Err(e) => assert_eq!(e.kind(), ErrorKind::WouldBlock),
        }
        served.turn(8);
    };
    assert_eq!(&data[..count], b"kept");
}

#[test]
fn input_waits_in_the_kernel_until_there_is_room() {
    let (served, _dir, path) = socket();
    let mut client = UnixStream::connect(&path).unwrap();
    served.turn(8);
    client.write_all(b"0123456789").unwrap();
    assert_eq!(served.turn(4), b"0123");
    assert_eq!(served.turn(0), b"");
    assert!(!served.is_due(0), "no room, and yet it is called for input");
    let mut room = [0; 4];
    assert_eq!((served.stream.service(&mut room), &room), (4, b"4567"));
    // What a client said before it left is not lost either.
    served.turn(0);
    drop(client);
    assert!(!served.is_due(0));
    assert_eq!((served.stream.service(&mut room), &room[..2]), (2, &b"89"[..]));
    assert_eq!(served.turn(4), b"");
    assert!(!served.is_due(0));
}

#[test]
fn a_client_that_has_said_all_still_listens() {
    let (served, _dir, path) = socket();
    let mut client = UnixStream::connect(&path).unwrap();
    served.turn(8);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(served.turn(8), b"");
    assert!(!served.is_due(0));
    served.stream.write(b"answer");
    assert_eq!(read(&mut client, 6), b"answer");
}

#[test]
fn a_slow_client_gets_all_within_the_ring_and_the_last_of_more() {
    let (served, _dir, path) = socket();
    let mut client = UnixStream::connect(&path).unwrap();
    served.turn(8);
    let data: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    data.chunks(1000).for_each(|part| served.stream.write(part));
    let reader = std::thread::spawn(move || (read(&mut client, 1_000_000), client));
    while !reader.is_finished() {
        if served.is_due(10) {
            served.turn(8);
        }
    }
    let (got, client) = reader.join().unwrap();
    assert!(got == data);
    drop(client);
    served.turn(8);
    served.stream.write(&vec![1; 1 << 20]);
    served.stream.write(b"end");
    let mut client = UnixStream::connect(&path).unwrap();
    let reader = std::thread::spawn(move || read(&mut client, 1 << 20));
    while !reader.is_finished() {
        if served.is_due(10) {
            served.turn(8);
        }
    }
    assert!(reader.join().unwrap().ends_with(b"\x01end"));
}

#[test]
fn a_pty_keeps_output_until_somebody_opens_it() {
    let served = Served::open(&plan::Stream::Pty);
    served.stream.write(b"boot");
    let path = served.stream.slave().unwrap().to_owned();
    // Nobody is there: the timer fires and nothing else happens.
    assert_eq!(served.turn(8), b"");
    let mut slave = File::options().read(true).write(true).open(&path).unwrap();
    served.turn(8);
    assert_eq!(read(&mut slave, 4), b"boot");
    slave.write_all(b"ab\n").unwrap();
    assert_eq!(served.input(3), b"ab\n");
    drop(slave);
    // The hang-up is noticed; from then on output is kept again.
    assert_eq!(served.turn(8), b"");
    served.stream.write(b"more");
    let mut slave = File::options().read(true).write(true).open(&path).unwrap();
    served.turn(8);
    assert_eq!(read(&mut slave, 4), b"more");
}

fn pipe() -> (File, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    (File::from(reader), writer)
}

#[test]
fn a_full_pipe_is_emptied_later() {
    let (mut reader, writer) = pipe();
    let served = Served::new(open::fixed(writer.as_fd(), None));
    drop(writer);
    assert!(served.stream.needs_service());
    let data = vec![7; 200_000];
    served.stream.write(&data);
    let mut got: Vec<u8> = Vec::new();
    while got.len() < data.len() {
        let mut part = [0; 50_000];
        let count = reader.read(&mut part).unwrap();
        got.extend(&part[..count]);
        if got.len() < data.len() && served.is_due(0) {
            served.turn(0);
        }
    }
    assert!(got == data);
    assert!(!served.is_due(0));
}

#[test]
fn a_pipe_that_nobody_reads_any_more_is_left_alone() {
    let (reader, writer) = pipe();
    let served = Served::new(open::fixed(writer.as_fd(), None));
    served.stream.write(&vec![7; 100_000]);
    drop(reader);
    served.turn(0);
    assert!(!served.is_due(0));
    served.stream.write(b"into the void");
    assert!(!served.is_due(0));
}

#[test]
fn fixed_input_ends_once() {
    let (mut typist, input) = {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        (File::from(writer), reader)
    };
    let null = File::options().write(true).open("/dev/null").unwrap();
    let served = Served::new(open::fixed(null.as_fd(), Some(input)));
    typist.write_all(b"abc").unwrap();
    assert_eq!(served.input(3), b"abc");
    drop(typist);
    assert_eq!(served.turn(8), b"");
    assert!(!served.is_due(0));
}

#[test]
fn the_last_words_are_sent_before_the_end() {
    let (mut reader, writer) = pipe();
    let stream = open::fixed(writer.as_fd(), None);
    drop(writer);
    stream.write(&[7; 200_000]);
    let waiting = std::thread::spawn(move || {
        let mut all = Vec::new();
        reader.read_to_end(&mut all).unwrap();
        all.len()
    });
    drop(stream);
    assert_eq!(waiting.join().unwrap(), 200_000);
}

/// Descriptors of every sort that standard output can be, in blocking mode and shared with whoever started us: one end to write to and
/// one to read from, and how to write where it would not be found out here.
fn shared_outputs() -> Vec<(&'static str, OwnedFd, OwnedFd, Option<Writing>)> {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let (other_reader, other_writer) = rustix::pipe::pipe().unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    let pty = host::pty::open().unwrap();
    let slave: OwnedFd = File::options().read(true).write(true).open(&pty.slave).unwrap().into();
    let other_pty = host::pty::open().unwrap();
    let other_slave: OwnedFd = File::options().read(true).write(true).open(&other_pty.slave).unwrap().into();
    vec![
        ("pipe", writer, reader, None),
        ("another's pipe", other_writer, other_reader, Some(Writing::Polled { at_most: 4096 })),
        ("socket", near.into(), far.into(), None),
        ("terminal", slave, pty.master.into(), None),
        ("another's terminal", other_slave, other_pty.master.into(), Some(Writing::Polled { at_most: 1 })),
    ]
}

#[test]
fn nobody_waits_for_a_reader_that_forgot_to_read() {
    for (name, writer, reader, writing) in shared_outputs() {
        let stream = open::unattended(writer.as_fd(), writing);
        // More than any of them and the ring hold together.
        let data = vec![b'x'; 100_000];
        (0..20).for_each(|_| stream.write(&data));
        assert!(stream.lock().dropped() > 0, "{name}");
        let shared = rustix::fs::fcntl_getfl(&writer).unwrap();
        assert!(!shared.contains(rustix::fs::OFlags::NONBLOCK), "{name}: the shell's descriptor was changed");
        if matches!(writing, Some(Writing::Polled { at_most: 1 })) {
            // The reader would wake up as below, but a MiB byte by byte takes its time.
            continue;
        }
        // The reader wakes up: what was kept goes out with the next output, and nothing else is lost.
        drop(writer);
        let (progress, reads) = std::sync::mpsc::channel();
        let told = move || {
            // Nobody listens any more once the end has come.
            let _ = progress.send(());
        };
        let reading = std::thread::spawn(move || read_until(reader, b"end", told));
        while !reading.is_finished() {
            stream.write(b"end");
            // No faster than the reader: what nobody reads would push out what was kept.
            let _ = reads.recv_timeout(std::time::Duration::from_millis(10));
        }
        assert!(reading.join().unwrap() >= 1 << 20, "{name}");
    }
}

#[test]
fn a_reader_that_keeps_up_gets_everything_without_a_thread_of_ours() {
    for (name, writer, reader, writing) in shared_outputs() {
        let stream = open::unattended(writer.as_fd(), writing);
        drop(writer);
        let reading = std::thread::spawn(move || read_until(reader, b"end", || ()));
        // Byte by byte, as a port is written.
        (0..100_000).for_each(|_| stream.write(b"x"));
        b"end".iter().for_each(|byte| stream.write(&[*byte]));
        assert_eq!(reading.join().unwrap(), 100_003, "{name}");
    }
}

#[test]
fn what_waits_for_room_comes_before_what_is_said_next() {
    for (name, writer, reader, writing) in
        shared_outputs().into_iter().filter(|(name, ..)| name.ends_with("pipe"))
    {
        let filler = vec![b'.'; rustix::pipe::fcntl_getpipe_size(&writer).unwrap()];
        File::from(writer.try_clone().unwrap()).write_all(&filler).unwrap();
        let stream = open::unattended(writer.as_fd(), writing);
        b"abc".iter().for_each(|byte| stream.write(&[*byte]));
        let mut reader = File::from(reader);
        assert_eq!(read(&mut reader, filler.len()), filler);
        stream.write(b"d");
        drop((stream, writer));
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, b"abcd", "{name}");
    }
}

/// Reads until `end` comes and answers how many bytes came. Tells of each piece.
fn read_until(reader: OwnedFd, end: &[u8], told: impl Fn()) -> usize {
    let mut last: Vec<u8> = Vec::new();
    let (mut part, mut count) = ([0; 4096], 0);
    while !last.windows(end.len()).any(|bytes| bytes == end) {
        let got = match rustix::io::read(&reader, &mut part) {
            Ok(got) => got,
            Err(rustix::io::Errno::AGAIN) => {
                let mut polled = [rustix::event::PollFd::new(&reader, rustix::event::PollFlags::IN)];
                rustix::event::poll(&mut polled, None).unwrap();
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        count += got;
        told();
        last.drain(..last.len().saturating_sub(end.len()));
        last.extend(&part[..got]);
    }
    count
}

/// Collects the targets of lines.
struct Targets(Arc<Mutex<Vec<&'static str>>>);

impl tracing::Subscriber for Targets {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn event(&self, event: &tracing::Event<'_>) {
        self.0.lock().unwrap().push(event.metadata().target());
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// A guest says what it likes as often as it likes, and the log limits lines with this target only.
#[test]
fn lines_about_lost_output_are_the_guest_s() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    tracing::subscriber::with_default(Targets(lines.clone()), || {
        let full = Served::open(&plan::Stream::File("/dev/full".into()));
        (0..3).for_each(|_| full.stream.write(b"x"));
        let (gone, output) = pipe();
        drop(gone);
        open::unattended(output.as_fd(), None).write(b"x");
    });
    let lines = lines.lock().unwrap();
    assert!(lines.len() >= 4 && lines.iter().all(|target| *target == "guest"), "{lines:?}");
}
