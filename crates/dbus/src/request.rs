//! A method call as a request of the table. Whatever is on the bus may send one: sizes are looked at before anything is copied.

use std::os::fd::{AsFd, OwnedFd};

use api::dbus::Method;
use api::{ApiError, Code, MAX_BODY, MAX_DESCRIPTORS, Request};
use zbus::message::Body;
use zbus::{Fd, fdo};

use crate::introspection::{BODY, BODY_WITH_FDS};

/// Bytes of a message beside the text of a body: lengths, padding and a number for each descriptor.
const OVERHEAD: usize = 16 + 4 * MAX_DESCRIPTORS;

/// Why a message is no request.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The arguments have other types.
    Arguments(fdo::Error),
    /// The request breaks one of the API's rules.
    Request(ApiError),
}

/// The request in a call's arguments.
///
/// # Errors
/// [`Refused`].
pub(crate) fn read(method: Method, body: &Body) -> Result<Request<'_>, Refused> {
    let wanted = match (method.verb.has_body, method.with_fds) {
        (false, _) => "",
        (true, false) => BODY,
        (true, true) => BODY_WITH_FDS,
    };
    let given = body.signature().to_string_no_parens();
    if given != wanted {
        let text = format!("{} takes \"{wanted}\", not \"{given}\"", method.name());
        return Err(Refused::Arguments(fdo::Error::InvalidArgs(text)));
    }
    if body.len() > MAX_BODY + OVERHEAD {
        return Err(too_large());
    }
    let (text, descriptors) = match wanted {
        "" => ("", Vec::new()),
        BODY => (body.deserialize::<&str>().map_err(broken)?, Vec::new()),
        _ => {
            let (text, descriptors) = body.deserialize::<(&str, Vec<Fd<'_>>)>().map_err(broken)?;
            (text, own(&descriptors)?)
        }
    };
    if text.len() > MAX_BODY {
        return Err(too_large());
    }
    Ok(Request { body: text.as_bytes(), descriptors })
}

/// An array may name one descriptor a million times: how many there are is settled before any is duplicated.
fn own(descriptors: &[Fd<'_>]) -> Result<Vec<OwnedFd>, Refused> {
    if descriptors.len() > MAX_DESCRIPTORS {
        let why = format!(
            "{} file descriptors came with this call: send at most {MAX_DESCRIPTORS}",
            descriptors.len()
        );
        return Err(refusal(Code::BadRequest, "Bad Request", why));
    }
    let owned: Result<Vec<_>, _> = descriptors.iter().map(|fd| fd.as_fd().try_clone_to_owned()).collect();
    owned.map_err(|error| {
        refusal(Code::Unavailable, "The VMM has no room for more descriptors", error.to_string())
    })
}

fn too_large() -> Refused {
    refusal(Code::TooLarge, "Payload Too Large", format!("The body may have {MAX_BODY} bytes"))
}

fn refusal(code: Code, what: &str, why: String) -> Refused {
    Refused::Request(ApiError::new(code, [what.into(), why]))
}

fn broken(error: zbus::Error) -> Refused {
    Refused::Arguments(fdo::Error::InvalidArgs(error.to_string()))
}
