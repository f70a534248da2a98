//! Events as signals, from the first record on. A bus that does not read stops only this task: the log drops what is too old.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use api::dbus::{EVENT, INTERFACE};
use api::{EventReader, News};
use tracing::warn;
use zbus::object_server::SignalEmitter;

/// Tells the news until `stopped` resolves and all that happened until then is told, or until the connection ends.
pub(crate) async fn tell(
    mut reader: EventReader,
    emitter: SignalEmitter<'static>,
    stopped: impl Future<Output = ()>,
) {
    let mut stopped = pin!(stopped);
    loop {
        let news = poll_fn(|cx| match reader.poll(cx) {
            Poll::Ready(news) => Poll::Ready(Some(news)),
            Poll::Pending => stopped.as_mut().poll(cx).map(|()| None),
        });
        let Some(News { lost, records, .. }) = news.await else { return };
        if lost > 0 {
            warn!("The D-Bus is too slow: {lost} events were dropped");
        }
        for record in records {
            // Strings and numbers always make JSON.
            let text = serde_json::to_string_pretty(&*record).unwrap_or_default();
            if emitter.emit(INTERFACE, EVENT, &text).await.is_err() {
                return;
            }
        }
    }
}
