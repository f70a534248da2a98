//! One client's connection, from accept to close. Each is a task on the `http-server` thread.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use api::{ApiError, Code};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use rustix::net::Shutdown;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::server::{Limits, Shared};
use crate::stream::{Arrived, Progress, Refusal, Stream};
use crate::{exchange, reply};

/// Bytes that a client may still send in vain before it is cut off.
const LINGER_BYTES: usize = 64 << 20;
/// How much hyper holds of a request or reply. Larger replies take more than one write.
const BUFFER: usize = 256 << 10;

/// Answers requests until the client leaves, breaks the rules, or the server stops.
pub(crate) async fn serve(socket: UnixStream, shared: Arc<Shared>) {
    let limits = shared.limits;
    let mut stopping = pin!(shared.stop_asked());
    let progress = Progress::default();
    let arrived = Arrived::default();
    let stream = Stream::new(socket, progress.clone(), arrived.clone(), limits.head_time);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        progress.exchange_began();
        let (shared, progress, arrived) = (shared.clone(), progress.clone(), arrived.clone());
        async move {
            let reply = exchange::answer(&shared, request, &arrived).await;
            // Those that came with a call that reached no verb.
            drop(arrived.take());
            progress.exchange_ended();
            Ok::<_, Infallible>(reply)
        }
    });
    let mut connection = builder(&limits).serve_connection(stream, service);
    let mut is_stopping = false;
    let result = poll_fn(|cx| {
        if !is_stopping && stopping.as_mut().poll(cx).is_ready() {
            is_stopping = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        Pin::new(&mut connection).poll(cx)
    })
    .await;
    let stream = connection.into_parts().io;
    let mut refusal = stream.refusal;
    if let Err(error) = result {
        tracing::debug!("An API connection ended: {error}");
        // hyper is silent about HTTP/2 and about heads that end early.
        if error.is_parse() || error.is_incomplete_message() {
            refusal = refusal.or(Some(Refusal::Unreadable(StatusCode::BAD_REQUEST)));
        }
    }
    let last_word = refusal.map(|refusal| last_word(refusal, &limits));
    let linger = if is_stopping { Duration::ZERO } else { limits.linger };
    close(stream.socket, last_word, linger).await;
}

/// Tells a client that there is no room for it.
pub(crate) async fn refuse(socket: UnixStream, limits: &Limits) {
    let error = ApiError::new(
        Code::Unavailable,
        ["Service Unavailable".into(), format!("There are {} connections already", limits.connections)],
    );
    let bytes = reply::last_word(StatusCode::SERVICE_UNAVAILABLE, &error);
    close(socket, Some(bytes), limits.linger).await;
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        // Clients in the field look for "Content-Length: " as it stands.
        .title_case_headers(true)
        .auto_date_header(false)
        // A client may end its sending side and still wait for the reply.
        .half_close(true)
        .max_header_size(limits.head)
        .max_buf_size(BUFFER)
        // hyper's limit would also end idle connections; the stream has its own.
        .header_read_timeout(None);
    builder
}

fn last_word(refusal: Refusal, limits: &Limits) -> Vec<u8> {
    let (status, why) = match refusal {
        Refusal::Late => {
            let seconds = limits.head_time.as_secs();
            (StatusCode::REQUEST_TIMEOUT, format!("The request's head was not complete within {seconds} s"))
        }
        Refusal::Unreadable(status @ StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE) => {
            // hyper says this of lengths near 2^64, too.
            let why =
                format!("A head may have {} bytes and 100 fields, a body {} bytes", limits.head, limits.body);
            (status, why)
        }
        Refusal::Unreadable(status @ StatusCode::URI_TOO_LONG) => (status, "The path is too long".into()),
        Refusal::Unreadable(status) => (status, "This is no HTTP/1 request".into()),
    };
    let error = ApiError::bad_request(&why);
    reply::last_word(status, &error)
}

/// Ends a connection such that the client can read what was said last.
///
/// A client that is still sending when the socket goes away would get an error before it has read the reply, so what it sends is thrown
/// away for a while.
async fn close(socket: UnixStream, last_word: Option<Vec<u8>>, linger: Duration) {
    let ending = async {
        if let Some(bytes) = last_word {
            write(&socket, &bytes).await?;
        }
        rustix::net::shutdown(&socket, Shutdown::Write)?;
        discard(&socket).await
    };
    // The client is gone, or does not listen: there is nobody to tell.
    let _ = timeout(linger, ending).await;
}

async fn write(socket: &UnixStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn discard(socket: &UnixStream) -> std::io::Result<()> {
    let mut rest = LINGER_BYTES;
    while rest > 0 {
        socket.readable().await?;
        let mut chunk = [0; 4096];
        match socket.try_read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => rest = rest.saturating_sub(read),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
