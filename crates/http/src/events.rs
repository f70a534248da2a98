//! Events as server-sent events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), for as long as the client listens.
//!
//! The log wakes the stream, on the `http-server` thread; a client that does not read stops only its own stream, and loses what the
//! log drops meanwhile. A comment now and then keeps the connection known to be alive, and shows that a client has left.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use api::{ApiError, Code, EventReader, News, StartAt};
use hyper::header::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use crate::reply::{self, Reply};
use crate::server::Shared;

/// Where a client that comes back has been.
pub(crate) const LAST_EVENT_ID: &str = "Last-Event-ID";

/// A stream of events.
pub(crate) struct EventStream {
    reader: EventReader,
    /// A client that follows since now is told that it does.
    is_new: bool,
    keep_alive: Duration,
    timer: Pin<Box<Sleep>>,
    stopping: Pin<Box<dyn Future<Output = ()> + Send>>,
    _place: OwnedSemaphorePermit,
}

/// Starts a stream.
pub(crate) fn follow(shared: &Shared, headers: &HeaderMap) -> Result<Reply, ApiError> {
    let start = match headers.get(LAST_EVENT_ID) {
        None => StartAt::Now,
        Some(value) => {
            let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            StartAt::After(
                number.ok_or_else(|| ApiError::bad_request("Last-Event-ID is the number of an event"))?,
            )
        }
    };
    let Ok(place) = shared.followers.clone().try_acquire_owned() else {
        let why = format!("{} clients follow events already", shared.limits.followers);
        return Err(ApiError::new(Code::Unavailable, ["Service Unavailable".into(), why]));
    };
    let keep_alive = shared.limits.keep_alive;
    Ok(reply::events(EventStream {
        reader: shared.client.reads().events().reader(start),
        is_new: true,
        keep_alive,
        timer: Box::pin(sleep(keep_alive)),
        stopping: Box::pin(shared.stop_asked()),
        _place: place,
    }))
}

impl EventStream {
    /// The next piece of text; none when the server stops, after all that has happened until then.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<String>> {
        if std::mem::take(&mut self.is_new) {
            return Poll::Ready(Some(": events\n\n".into()));
        }
        if let Poll::Ready(news) = self.reader.poll(cx) {
            self.put_off_keep_alive();
            return Poll::Ready(Some(render(&news)));
        }
        if self.stopping.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        ready!(self.timer.as_mut().poll(cx));
        self.put_off_keep_alive();
        Poll::Ready(Some(": still here\n\n".into()))
    }

    fn put_off_keep_alive(&mut self) {
        self.timer.as_mut().reset(Instant::now() + self.keep_alive);
    }
}

fn render(news: &News) -> String {
    let mut text = String::new();
    if news.lost > 0 {
        text += &format!("event: lost\ndata: {{\"lost\":{}}}\n\n", news.lost);
    }
    for (id, record) in (news.first..).zip(&news.records) {
        // Strings and numbers always make JSON, and JSON has no raw line ends.
        let record = serde_json::to_string(&**record).unwrap_or_default();
        text += &format!("id: {id}\ndata: {record}\n\n");
    }
    text
}
