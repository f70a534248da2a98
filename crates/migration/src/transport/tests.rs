use std::path::Path;
use std::sync::Arc;

use config::MigrationUrl;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;
use crate::tests::machine::{FakeDestination, FakeSource, World};
use crate::tests::net::Net;
use crate::tests::{RECEIVE, SEND};
use crate::{Limits, ReceiveSettings, Received, SendError, SendSettings, Watch};

/// A machine goes over real sockets.
fn moves(dial: &Arc<dyn Dial>, listener: Box<dyn Accept>, send: &SendSettings, receive: ReceiveSettings) {
    let net = Net::new(Arc::new(World::default()));
    let mut source = FakeSource::new(&net, 31);
    let mut destination = FakeDestination::new(Arc::clone(&net.world));
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let received = crate::receive(listener, &mut destination, receive, &Watch::default());
            if receive.postcopy {
                destination.fill();
            }
            received
        });
        (crate::send(&mut source, dial, send, &Watch::default()), receiver.join().unwrap())
    });
    assert!(matches!(sent, Ok(ref sent) if sent.pages_lost.is_none()), "{sent:?}");
    assert!(matches!(received, Ok(Received::Owned { failed: None })), "{received:?}");
    assert_eq!(destination.ram(), source.ram());
    assert!(destination.is_running() && !source.is_running_now());
}

/// Each way of sending, each time from another listener.
fn moves_in_every_mode(endpoints: impl Fn() -> (Arc<dyn Dial>, Box<dyn Accept>), local: bool) {
    let postcopy = ReceiveSettings { postcopy: true, ..RECEIVE };
    let mut modes = vec![(SEND, RECEIVE), (SendSettings { connections: 3, ..SEND }, RECEIVE)];
    if local {
        modes.push((SendSettings { local: true, ..SEND }, RECEIVE));
    }
    // The last, because its listener stays for a moment after all pages are there.
    modes.push((SendSettings { postcopy: true, ..SEND }, postcopy));
    for (send, receive) in modes {
        let (dial, listener) = endpoints();
        moves(&dial, listener, &send, receive);
    }
}

#[test]
fn over_unix_sockets() {
    let dir = tempfile::tempdir().unwrap();
    let url = MigrationUrl::Unix(dir.path().join("socket"));
    moves_in_every_mode(|| (dial(&url, None).unwrap(), listen(&url, None).unwrap()), true);
    let path = dir.path().join("another");
    let another = MigrationUrl::Unix(path.clone());
    let listener = listen(&another, None).unwrap();
    assert!(matches!(listen(&another, None), Err(TransportError::InTheWay { .. })), "it is in use");
    drop(listener);
    assert!(!path.exists(), "the socket goes with the listener");
    assert!(matches!(Limits::of(&url), Limits { orphan, .. } if orphan == Limits::UNIX.orphan));
}

fn over_loopback(tls: Option<&Path>) -> (Arc<dyn Dial>, Box<dyn Accept>) {
    let server = tls.map(|dir| tls::Server::new(dir).unwrap());
    let listener = tcp::Listener::bind("127.0.0.1", 0, server).unwrap();
    let url = MigrationUrl::Tcp("localhost".into(), listener.port());
    (dial(&url, tls).unwrap(), Box::new(listener))
}

#[test]
fn over_tcp() {
    moves_in_every_mode(|| over_loopback(None), false);
}

/// A directory for `tls_dir`, its receiver's certificate made out to `name`.
fn tls_dir(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let write = |name: &str, text: String| std::fs::write(dir.path().join(name), text).unwrap();
    write("ca-cert.pem", authority.pem());
    for (whose, name) in [("server", name), ("client", "source")] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        write(&format!("{whose}-cert.pem"), params.signed_by(&key, &authority).unwrap().pem());
        write(&format!("{whose}-key.pem"), key.serialize_pem());
    }
    dir
}

#[test]
fn over_tls() {
    let dir = tls_dir("localhost");
    moves_in_every_mode(|| over_loopback(Some(dir.path())), false);
}

/// Whoever does not show the right certificate gets no machine and brings none.
#[test]
fn a_stranger_is_refused() {
    let ours = tls_dir("localhost");
    let strange = tls_dir("localhost");
    let misnamed = tls_dir("elsewhere");
    let cases: [(&Path, Option<&Path>); 4] = [
        (strange.path(), Some(ours.path())),
        (ours.path(), Some(strange.path())),
        (misnamed.path(), Some(misnamed.path())),
        (ours.path(), None),
    ];
    for (server, client) in cases {
        let listener = tcp::Listener::bind("127.0.0.1", 0, Some(tls::Server::new(server).unwrap())).unwrap();
        let url = MigrationUrl::Tcp("localhost".into(), listener.port());
        let dial = dial(&url, client).unwrap();
        let net = Net::new(Arc::new(World::default()));
        let mut source = FakeSource::new(&net, 32);
        let mut destination = FakeDestination::new(Arc::clone(&net.world));
        let (sent, received) = std::thread::scope(|scope| {
            let receiver = scope
                .spawn(|| crate::receive(Box::new(listener), &mut destination, RECEIVE, &Watch::default()));
            (crate::send(&mut source, &dial, &SEND, &Watch::default()), receiver.join().unwrap())
        });
        assert!(matches!(sent.unwrap_err().error, SendError::Dial(_) | SendError::Link { .. }));
        assert!(received.is_err() && !destination.is_there());
        assert!(source.is_running_now() && source.holds());
    }
}

#[test]
fn what_cannot_be_used_is_named() {
    let dir = tls_dir("localhost");
    let url: MigrationUrl = "tcp:localhost:1".parse().unwrap();
    std::fs::write(dir.path().join("client-key.pem"), "no key").unwrap();
    let error = dial(&url, Some(dir.path())).err().unwrap();
    assert!(error.to_string().contains("client-key.pem' of tls_dir"), "{error}");
    std::fs::remove_file(dir.path().join("ca-cert.pem")).unwrap();
    let error = listen(&url, Some(dir.path())).err().unwrap();
    assert!(error.to_string().contains("ca-cert.pem' of tls_dir"), "{error}");
    let nowhere = MigrationUrl::Unix(dir.path().join("none/socket"));
    assert!(listen(&nowhere, None).err().unwrap().to_string().contains("none/socket"));
}
