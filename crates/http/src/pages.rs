//! Paths that are no verbs. All are read by GET, on the `http-server` thread, and wait for nobody.

use api::{ApiError, Code};
use hyper::header::HeaderMap;

use crate::events::{self, LAST_EVENT_ID};
use crate::metrics;
use crate::reply::{self, Reply};
use crate::server::Shared;

/// What all of `docs/openapi.json` is generated from is the command table and [`PAGES`]; a test compares them.
const OPENAPI: &str = include_str!("../../../docs/openapi.json");

/// One line of the table.
pub struct Page {
    /// What follows [`api::ROOT`] in its path.
    pub name: &'static str,
    /// Its path outside of [`api::ROOT`], where people have always looked for it.
    pub alias: Option<&'static str>,
    /// Its operation's id in the OpenAPI document.
    pub operation: &'static str,
    /// What it is for.
    pub summary: &'static str,
    /// What it answers with.
    pub media_type: &'static str,
    /// A request header it looks at, and why.
    pub header: Option<(&'static str, &'static str)>,
    /// What it may fail with.
    pub codes: &'static [Code],
    pub(crate) serve: Serve,
}

type Serve = fn(&Shared, &HeaderMap) -> Result<Reply, ApiError>;

/// The table.
pub static PAGES: &[Page] = &[
    Page {
        name: "openapi.json",
        alias: None,
        operation: "openapi",
        summary: "Tell what this API is, as an OpenAPI document.",
        media_type: "application/json",
        header: None,
        codes: &[Code::BadRequest, Code::Unavailable],
        serve: |_, _| Ok(reply::page("application/json", OPENAPI)),
    },
    Page {
        name: "events",
        alias: None,
        operation: "events",
        summary: "Follow events as server-sent events: the data of each is an EventRecord in JSON, its id a sequence number. \
                  An event of type lost tells how many records a slow reader has missed.",
        media_type: "text/event-stream",
        header: Some((
            LAST_EVENT_ID,
            "Start after the record of this number, as far as records are kept (the last 1024); 0 for all of them.",
        )),
        codes: &[Code::BadRequest, Code::Unavailable],
        serve: events::follow,
    },
    Page {
        name: "metrics",
        alias: Some("/metrics"),
        operation: "metrics",
        summary: "Measure, in Prometheus' text format. Also at /metrics, without /api/v1.",
        media_type: metrics::MEDIA_TYPE,
        header: None,
        codes: &[Code::BadRequest, Code::Unavailable],
        serve: |shared, _| Ok(reply::page(metrics::MEDIA_TYPE, metrics::render(&shared.client))),
    },
];

impl Page {
    /// The page at `path`.
    pub(crate) fn find(path: &str) -> Option<&'static Self> {
        let name = path.strip_prefix(api::ROOT);
        PAGES.iter().find(|page| name == Some(page.name) || page.alias == Some(path))
    }
}
