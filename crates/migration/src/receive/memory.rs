//! Storing memory that comes, on the first connection or on one of several.

use std::sync::Arc;

use sandbox::{Profile, groups};

use super::session::Session;
use crate::connection::{CHUNK_LEN, Connection, Limit, LinkError};
use crate::profile::STREAM;
use crate::ranges::{Range, contain, total};
use crate::wire::{Command, Request, Response, TABLE_LIMIT, decode_ranges};

/// A thread that stores memory.
pub(crate) static PROFILE: Profile = Profile::new("migration-receive-memory", &[STREAM, groups::DISCARD]);

/// A connection for memory alone, until the source closes it or something is wrong with it.
pub(super) fn serve(session: &Session, connection: &mut Connection) {
    let quiet = Limit::Quiet(session.settings.limits.quiet);
    let served = loop {
        let stored = connection.next_request(quiet).and_then(|request| match request.command {
            Command::Memory => store(session, connection, request),
            other => Err(LinkError::Nonsense(format!("{other:?} on a connection for memory"))),
        });
        if let Err(error) = stored {
            break error;
        }
    };
    if let LinkError::Nonsense(reason) = &served {
        // The source may have gone meanwhile.
        let _ = connection.refuse(reason, session.is_ours());
    }
    tracing::debug!("migration: a connection for memory ends: {served}");
}

/// Reads what follows a `Memory` request, stores it and answers.
pub(super) fn store(
    session: &Session,
    connection: &mut Connection,
    request: Request,
) -> Result<(), LinkError> {
    let table = connection.read_payload("a table of memory", request.length, TABLE_LIMIT)?;
    let ranges = decode_ranges(&table)
        .ok_or_else(|| LinkError::Nonsense(format!("a table of memory of {} bytes", table.len())))?;
    check(session, &ranges)?;
    if request.is_zero() {
        for (base, len) in ranges {
            session.with_ram(|ram| ram.memory.clear(base, len)).ok_or_else(late)?.map_err(broken)?;
        }
    } else {
        read_bytes(session, connection, &ranges)?;
    }
    connection.respond(Response::ok(0))
}

fn read_bytes(session: &Session, connection: &mut Connection, ranges: &[Range]) -> Result<(), LinkError> {
    let limit = Limit::for_bytes(total(ranges));
    let mut chunk = vec![0; CHUNK_LEN];
    for &(base, len) in ranges {
        for at in (0..len).step_by(CHUNK_LEN) {
            let part = usize::try_from(len - at).unwrap_or(CHUNK_LEN).min(CHUNK_LEN);
            let bytes = chunk.get_mut(..part).unwrap_or_default();
            connection.read(bytes, limit)?;
            session.with_ram(|ram| ram.memory.write(base + at, bytes)).ok_or_else(late)?.map_err(broken)?;
        }
    }
    Ok(())
}

/// All ranges must lie in RAM, and all of them together hold no more than RAM does: a table is no way to keep this side busy for ever.
fn check(session: &Session, ranges: &[Range]) -> Result<(), LinkError> {
    let outside = session.with_ram(|ram| {
        let too_much = total(ranges) > total(&ram.ranges);
        ranges.iter().copied().find(|range| too_much || !contain(&ram.ranges, *range))
    });
    match outside.ok_or_else(late)? {
        None => Ok(()),
        Some((base, len)) => Err(LinkError::Nonsense(format!(
            "memory of {len} bytes at {base:#x} is not in the machine's RAM"
        ))),
    }
}

fn late() -> LinkError {
    LinkError::Nonsense("memory comes before the configuration or after the state".to_owned())
}

fn broken(error: crate::MachineError) -> LinkError {
    LinkError::Nonsense(format!("memory cannot be stored: {error}"))
}

/// Serves `connection` in a thread of its own, which ends with the session.
pub(super) fn spawn(
    session: &Arc<Session>,
    number: usize,
    mut connection: Connection,
) -> std::io::Result<()> {
    let shared = Arc::clone(session);
    connection.watch_with(session.workers.clone());
    let name = format!("migrate-receive-memory-{number}");
    sandbox::spawn(&PROFILE, name, move || serve(&shared, &mut connection)).map(drop)
}
