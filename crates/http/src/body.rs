//! A request's body: bounded in size, and in the time in which nothing of it comes. Read on the `http-server` thread.

use std::time::Duration;

use api::{ApiError, Code};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use thiserror::Error;
use tokio::time::timeout;

/// Why there is no body. The connection is of no use after it.
#[derive(Debug, Error)]
pub(crate) enum BodyError {
    /// It is larger than allowed, or announces to be.
    #[error("The body may have {limit} bytes")]
    TooLarge {
        /// The most that is allowed.
        limit: usize,
    },
    /// The client stopped sending.
    #[error("Nothing of the body arrived for {} s", pause.as_secs())]
    Late {
        /// How long.
        pause: Duration,
    },
    /// It ends early or its chunks make no sense.
    #[error("The body is broken")]
    Broken(#[from] hyper::Error),
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { .. } => {
                Self::from_error(Code::TooLarge, &error).within("Payload Too Large")
            }
            BodyError::Late { .. } | BodyError::Broken(_) => {
                Self::from_error(Code::BadRequest, &error).within("Bad Request")
            }
        }
    }
}

/// Reads a body of at most `limit` bytes. A client may be silent for `pause`.
pub(crate) async fn read(mut body: Incoming, limit: usize, pause: Duration) -> Result<Bytes, BodyError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    // Checked before the first byte is asked for, so that no `100 Continue` is sent.
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLarge { limit });
    }
    // Most bodies come in one piece, which needs no copy.
    let mut first = Bytes::new();
    let mut all = Vec::new();
    while let Some(frame) = timeout(pause, body.frame()).await.map_err(|_| BodyError::Late { pause })? {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if first.len().max(all.len()).saturating_add(data.len()) > limit {
            return Err(BodyError::TooLarge { limit });
        }
        if first.is_empty() && all.is_empty() {
            first = data;
        } else {
            if all.is_empty() {
                all.extend_from_slice(&first);
            }
            all.extend_from_slice(&data);
        }
    }
    Ok(if all.is_empty() { first } else { all.into() })
}
