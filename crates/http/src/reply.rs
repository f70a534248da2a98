//! Replies as clients read them (`spec/rest-api.md` §1, `spec/README.md`). Made on the `http-server` thread.
//!
//! A client in the field reads at most 1023 bytes, once: every head made here stays far below that.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use api::{Answer, ApiError, WARNED_FIELDS, log_text};
use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::ext::ReasonPhrase;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};

use crate::events::EventStream;

/// A reply, with its body in one piece or as it happens.
pub(crate) type Reply = Response<ReplyBody>;

/// What follows a reply's head.
pub(crate) enum ReplyBody {
    /// All there is.
    Whole(Full<Bytes>),
    /// Events, until the client or the server leaves.
    Events(EventStream),
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Events(stream) => {
                stream.poll_next(cx).map(|text| text.map(|text| Ok(Frame::data(text.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

/// Characters of a field's path that are told.
const WARNED_LENGTH: usize = 64;

const SERVER: &str = "Cloud Hypervisor API";
const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
/// Clients in the field read all that follows the version as a number, so a status line has no phrase.
const NO_PHRASE: ReasonPhrase = ReasonPhrase::from_static(b"");
const ERROR_CODE: HeaderName = HeaderName::from_static("x-error-code");

/// A reply to a call that went well.
pub(crate) fn success(answer: Answer, unknown_fields: &[String]) -> Reply {
    let mut reply = match answer {
        Answer::Nothing => start(StatusCode::NO_CONTENT, None, String::new()),
        Answer::Empty => start(StatusCode::OK, Some(JSON), String::new()),
        Answer::Json(text) => start(StatusCode::OK, Some(JSON), text),
    };
    if let Some(warning) = warning(unknown_fields) {
        reply.headers_mut().insert(header::WARNING, warning);
    }
    reply
}

/// A reply to a call that failed, as `application/problem+json` (RFC 9457) if the client asked for it. `allow` is told with a 405 only.
/// With `is_last`, the connection is closed after it.
pub(crate) fn failure(
    error: &ApiError,
    as_problem: bool,
    allow: Option<&'static str>,
    is_last: bool,
) -> Reply {
    log(error);
    let (status, code) = error.code.parts();
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut reply = if as_problem {
        start(status, Some(PROBLEM), error.to_problem())
    } else {
        start(status, Some(JSON), error.to_json())
    };
    let headers = reply.headers_mut();
    headers.insert(ERROR_CODE, HeaderValue::from_static(code));
    if let Some(allow) = allow.filter(|_| status == StatusCode::METHOD_NOT_ALLOWED) {
        headers.insert(header::ALLOW, HeaderValue::from_static(allow));
    }
    if is_last {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    reply
}

/// A document that is not an answer to a verb.
pub(crate) fn page(media_type: &'static str, text: impl Into<Bytes>) -> Reply {
    start(StatusCode::OK, Some(media_type), text)
}

/// The beginning of a stream of events.
pub(crate) fn events(stream: EventStream) -> Reply {
    let mut reply = page("text/event-stream", Bytes::new());
    reply.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    *reply.body_mut() = ReplyBody::Events(stream);
    reply
}

/// A reply after which the connection is closed.
pub(crate) fn closing(mut reply: Reply) -> Reply {
    reply.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    reply
}

fn start(status: StatusCode, content_type: Option<&'static str>, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(ReplyBody::Whole(Full::new(body.into())));
    *reply.status_mut() = status;
    reply.extensions_mut().insert(NO_PHRASE);
    let headers = reply.headers_mut();
    headers.insert(header::SERVER, HeaderValue::from_static(SERVER));
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    reply
}

/// The bytes of a failure's reply for a connection that hyper does not serve, or not any more. `status` may say more than the code.
pub(crate) fn last_word(status: StatusCode, error: &ApiError) -> Vec<u8> {
    log(error);
    let body = error.to_json();
    format!(
        "HTTP/1.1 {} \r\nServer: {SERVER}\r\nConnection: close\r\nContent-Type: {JSON}\r\n\
         X-Error-Code: {}\r\nContent-Length: {}\r\n\r\n{body}",
        status.as_str(),
        error.code,
        body.len(),
    )
    .into_bytes()
}

fn log(error: &ApiError) {
    tracing::info!("HTTP API error response: {}", log_text(&error.to_string()));
}

/// Whether a request asks for errors in RFC 9457's form.
pub(crate) fn wants_problem(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        let mut parts = range.split(';').map(str::trim);
        let is_problem = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(PROBLEM));
        let is_refused = |part: &str| {
            part.split_once('=').is_some_and(|(name, weight)| {
                name.trim().eq_ignore_ascii_case("q") && weight.trim().parse() == Ok(0.0_f32)
            })
        };
        is_problem && !parts.any(is_refused)
    })
}

/// What a `Warning` header says of fields that nobody knows.
fn warning(unknown_fields: &[String]) -> Option<HeaderValue> {
    if unknown_fields.is_empty() {
        return None;
    }
    let mut told: Vec<String> = unknown_fields
        .iter()
        .take(WARNED_FIELDS)
        .map(|field| format!("299 - \"unknown field: {}\"", header_text(field)))
        .collect();
    if unknown_fields.len() > WARNED_FIELDS {
        told.push("299 - \"and more unknown fields\"".into());
    }
    HeaderValue::try_from(told.join(", ")).ok()
}

/// A client's text inside a quoted header string.
fn header_text(text: &str) -> String {
    let harmless = |c: char| if c.is_ascii_graphic() && c != '"' && c != '\\' { c } else { '?' };
    text.chars().take(WARNED_LENGTH).map(harmless).collect()
}
