//! What guests of tests and of `cargo xtask bench` do and busybox cannot: sockets of AF_VSOCK, being told of new devices, and saying how long
//! they stood still. `cargo xtask` links it statically and puts it into the guests' initramfs as `/bin/vmguest`.

mod arrivals;
mod beats;

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::process::ExitCode;
use std::thread;

use vsock::{VMADDR_CID_ANY, VsockListener, VsockStream};

const USAGE: &str = "\
usage: vmguest connect CID PORT    standard input there, what comes back to standard output, until both have ended
       vmguest many CID PORT N     N connections at the same time, each of which says a line and wants it back
       vmguest listen PORT         as connect, with the first who comes
       vmguest echo PORT           gives everybody back what they say
       vmguest deaf PORT           lets everybody in and reads nothing
       vmguest arrivals MIB        says which devices come, and when the RAM has grown by so much
       vmguest cid                 the guest's own address, while it has one
       vmguest beats MIB BUSY      fills so much RAM, keeps writing to some of it, and says a character every 10 ms";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["connect", cid, port] => connect(cid, port).and_then(|stream| talk(&stream)),
        ["many", cid, port, count] => many(cid, port, count),
        ["listen", port] => listen(port).and_then(|listener| talk(&listener.accept()?.0)),
        ["echo", port] => listen(port).and_then(|listener| serve(&listener, |stream| echo(&stream))),
        ["deaf", port] => listen(port).and_then(|listener| {
            serve(&listener, |_stream| -> io::Result<()> {
                loop {
                    thread::park();
                }
            })
        }),
        ["arrivals", mib] => number(mib).and_then(|mib| arrivals::tell(mib.into())),
        ["cid"] => vsock::get_local_cid().and_then(|cid| writeln!(io::stdout(), "{cid}")),
        ["beats", mib, busy] => number(mib).and_then(|mib| beats::tell(mib, number(busy)?)),
        _ => Err(io::Error::other(USAGE)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> io::Result<u32> {
    text.parse().map_err(|error| io::Error::other(format!("{text}: {error}")))
}

fn connect(cid: &str, port: &str) -> io::Result<VsockStream> {
    VsockStream::connect_with_cid_port(number(cid)?, number(port)?)
}

fn listen(port: &str) -> io::Result<VsockListener> {
    VsockListener::bind_with_cid_port(VMADDR_CID_ANY, number(port)?)
}

/// Carries bytes both ways until either has ended.
fn talk(stream: &VsockStream) -> io::Result<()> {
    let (mut there, mut back) = (stream, stream);
    thread::scope(|scope| {
        let sent = scope.spawn(move || {
            io::copy(&mut io::stdin(), &mut there)?;
            there.shutdown(Shutdown::Write)
        });
        io::copy(&mut back, &mut io::stdout())?;
        sent.join().unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))
    })
}

/// Lets everybody in, with a thread each.
fn serve(
    listener: &VsockListener,
    each: impl Fn(VsockStream) -> io::Result<()> + Copy + Send + 'static,
) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept()?;
        thread::spawn(move || each(stream));
    }
}

fn echo(stream: &VsockStream) -> io::Result<()> {
    let (mut from, mut to) = (stream, stream);
    io::copy(&mut from, &mut to)?;
    stream.shutdown(Shutdown::Write)
}

/// Opens all, then talks on all, so that they are there together.
fn many(cid: &str, port: &str, count: &str) -> io::Result<()> {
    let mut streams = (0..number(count)?).map(|_| connect(cid, port)).collect::<io::Result<Vec<_>>>()?;
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.write_all(format!("connection {index}\n").as_bytes())?;
    }
    for (index, stream) in streams.iter_mut().enumerate() {
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer != format!("connection {index}\n") {
            return Err(io::Error::other(format!("connection {index} heard {answer:?}")));
        }
    }
    writeln!(io::stdout(), "{}", streams.len())
}
