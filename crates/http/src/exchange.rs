//! One request and its reply: find the verb, read the body, call, write down what came of it. Runs on the `http-server` thread.

use std::os::fd::OwnedFd;

use api::{ApiError, Client, Code, Outcome, Verb, log_text};
use hyper::body::{Body, Incoming};
use hyper::{Method, Request, header};
use tokio::sync::oneshot;
use tracing::{info, warn};

use crate::body;
use crate::pages::Page;
use crate::reply::{self, Reply};
use crate::server::Shared;
use crate::stream::Arrived;

/// Answers one request.
pub(crate) async fn answer(shared: &Shared, request: Request<Incoming>, arrived: &Arrived) -> Reply {
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    info!("HTTP API request: {} {}", log_text(head.method.as_str()), log_text(path));
    let as_problem = reply::wants_problem(&head.headers);
    let verb = match route(&head.method, path) {
        Ok(Target::Verb(verb)) => verb,
        Ok(Target::Page(page)) => {
            let is_read = skip_body(body, head.headers.contains_key(header::EXPECT), shared).await;
            return match (page.serve)(shared, &head.headers) {
                Ok(reply) if is_read => reply,
                Ok(reply) => reply::closing(reply),
                Err(error) => reply::failure(&error, as_problem, None, !is_read),
            };
        }
        Err(refused) => {
            let is_read = skip_body(body, head.headers.contains_key(header::EXPECT), shared).await;
            return reply::failure(&refused.error, as_problem, refused.allow, !is_read);
        }
    };
    let body = match body::read(body, shared.limits.body, shared.limits.body_pause).await {
        Ok(body) => body,
        Err(error) => return reply::failure(&error.into(), as_problem, None, true),
    };
    let outcome = call(verb, &shared.client, &body, arrived.take()).await;
    outcome.warnings(verb).for_each(|text| warn!("{text}"));
    match outcome.result {
        Ok(answer) => reply::success(answer, &outcome.unknown_fields),
        Err(error) => reply::failure(&error, as_problem, Some(allowed(verb)), false),
    }
}

/// A request that reaches no verb.
struct Refused {
    error: ApiError,
    allow: Option<&'static str>,
}

/// What a path names.
enum Target {
    Verb(&'static Verb),
    Page(&'static Page),
}

fn route(method: &Method, path: &str) -> Result<Target, Refused> {
    if let Some(page) = Page::find(path) {
        return match *method {
            Method::GET | Method::HEAD => Ok(Target::Page(page)),
            _ => Err(wrong_method(page.name, "GET, HEAD")),
        };
    }
    let Some(verb) = path.strip_prefix(api::ROOT).and_then(Verb::find) else {
        let error = ApiError::new(Code::NotFound, ["Not Found".into()]);
        return Err(Refused { error, allow: None });
    };
    if is_allowed(method, verb) {
        Ok(Target::Verb(verb))
    } else {
        Err(wrong_method(verb.name, allowed(verb)))
    }
}

fn wrong_method(name: &str, allow: &'static str) -> Refused {
    let why = format!("{name} answers to {allow} only");
    let error = ApiError::new(Code::MethodNotAllowed, ["Method Not Allowed".into(), why]);
    Refused { error, allow: Some(allow) }
}

fn is_allowed(method: &Method, verb: &Verb) -> bool {
    match verb.method {
        api::Method::Put => method == Method::PUT,
        api::Method::Get => {
            method == Method::GET || method == Method::HEAD || (method == Method::PUT && verb.may_be_put())
        }
    }
}

/// The `Allow` header of a verb's path.
fn allowed(verb: &Verb) -> &'static str {
    match verb.method {
        api::Method::Put => "PUT",
        api::Method::Get if verb.may_be_put() => "GET, HEAD, PUT",
        api::Method::Get => "GET, HEAD",
    }
}

async fn call(verb: &'static Verb, client: &Client, body: &[u8], descriptors: Vec<OwnedFd>) -> Outcome {
    let (sender, outcome) = oneshot::channel();
    // The client may have left, and its connection with it: then nobody wants the outcome.
    verb.call(client, api::Request { body, descriptors }, move |outcome| drop(sender.send(outcome)));
    outcome.await.unwrap_or_else(|_| {
        let error = ApiError::new(Code::Unavailable, ["The call was given up".into()]);
        Outcome { result: Err(error), unknown_fields: Vec::new() }
    })
}

/// Reads a body that nobody wants, so that the connection can be used on. Tells whether it can.
///
/// A client that waits for `100 Continue` must not be asked to send it.
async fn skip_body(body: Incoming, expects_continue: bool, shared: &Shared) -> bool {
    body.is_end_stream()
        || (!expects_continue && body::read(body, shared.limits.body, shared.limits.body_pause).await.is_ok())
}
