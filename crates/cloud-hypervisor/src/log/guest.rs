//! Lines that a guest causes as often as it likes: `tracing::warn!(target: "guest", ...)`. Each site in the program that has such lines gets
//! an allowance, and says at its end how many it left out.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use host::allowance::Allowance;
use tracing::Metadata;
use tracing::callsite::Identifier;

/// The target of such lines.
pub(super) const TARGET: &str = "guest";
/// Lines of one site at once.
const BURST: u32 = 10;
/// Lines of one site in the long run.
const PER_SECOND: u32 = 1;

/// The allowances, by site.
#[derive(Default)]
pub(super) struct GuestLines(Mutex<HashMap<Identifier, CallSite>>);

struct CallSite {
    metadata: &'static Metadata<'static>,
    allowance: Allowance,
}

impl GuestLines {
    /// Whether a line may be written at `now`. All that no guest causes may.
    pub(super) fn admit(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        if metadata.target() != TARGET {
            return true;
        }
        let mut sites = self.sites();
        let site = sites.entry(metadata.callsite());
        let site =
            site.or_insert_with(|| CallSite { metadata, allowance: Allowance::new(BURST, PER_SECOND, now) });
        site.allowance.take(now)
    }

    /// Call sites that may write again at `now`, and how many lines each has left out.
    pub(super) fn left_out(&self, now: Instant) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut sites = self.sites();
        let left_out = |site: &mut CallSite| Some((site.metadata, site.allowance.refused(now)?));
        sites.values_mut().filter_map(left_out).collect()
    }

    fn sites(&self) -> MutexGuard<'_, HashMap<Identifier, CallSite>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Subscriber};

    use super::*;

    /// Counts lines at a time that stands still.
    struct Counting {
        lines: Arc<Mutex<Vec<&'static str>>>,
        guest: Arc<GuestLines>,
        now: Instant,
    }

    impl Subscriber for Counting {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn event(&self, event: &Event<'_>) {
            if self.guest.admit(event.metadata(), self.now) {
                self.lines.lock().unwrap().push(event.metadata().target());
            }
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    #[test]
    fn each_site_has_an_allowance_and_tells_what_it_left_out() {
        let (lines, guest) = (Arc::new(Mutex::new(Vec::new())), Arc::new(GuestLines::default()));
        let now = Instant::now();
        let counting = Counting { lines: lines.clone(), guest: guest.clone(), now };
        tracing::subscriber::with_default(counting, || {
            for _ in 0..1000 {
                tracing::warn!(target: TARGET, "one site");
                tracing::warn!(target: "host", "not the guest's");
            }
            tracing::warn!(target: TARGET, "another site");
        });
        let count = |target| lines.lock().unwrap().iter().filter(|line| **line == target).count();
        assert_eq!((count(TARGET), count("host")), (BURST as usize + 1, 1000));
        assert_eq!(guest.left_out(now).len(), 0);
        let later = now + Duration::from_secs(1);
        let left_out: Vec<u64> = guest.left_out(later).iter().map(|(_, count)| *count).collect();
        assert_eq!(left_out, [990]);
        assert_eq!(guest.left_out(later).len(), 0);
    }
}
