//! The maps of guest RAM that requests under way began with: the kernel may touch what lies there until the last of them has ended,
//! whatever RAM has become meanwhile.

use memory::DmaView;

/// One map, and how many requests under way began with it.
struct Held {
    id: u32,
    view: DmaView,
    requests: usize,
}

/// All of them: none while nothing is under way, hardly ever more than one.
#[derive(Default)]
pub(super) struct HeldViews {
    held: Vec<Held>,
    next: u32,
}

impl HeldViews {
    /// A request begins with `view`; answers what to end it with.
    pub(super) fn begin(&mut self, view: &DmaView) -> u32 {
        if let Some(held) = self.held.iter_mut().find(|held| held.view.is_same(view)) {
            held.requests += 1;
            return held.id;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.held.push(Held { id, view: view.keep(), requests: 1 });
        id
    }

    /// A request that began with `id` ends: `last` is what it does with its map.
    pub(super) fn end(&mut self, id: u32, last: impl FnOnce(&DmaView)) {
        let Some(at) = self.held.iter().position(|held| held.id == id) else { return };
        if let Some(held) = self.held.get_mut(at) {
            last(&held.view);
            held.requests = held.requests.saturating_sub(1);
            if held.requests == 0 {
                self.held.swap_remove(at);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use config::plan::Zone;
    use memory::{GuestAddress, test_ram};

    #[test]
    fn a_map_is_held_as_long_as_a_request_that_began_with_it() {
        const BASE: GuestAddress = GuestAddress(1 << 32);
        let ram = test_ram(&[(0, 1 << 20)]);
        let mut views = HeldViews::default();
        let first = views.begin(&ram.dma().view());
        assert_eq!(views.begin(&ram.dma().view()), first);
        ram.plug(&Zone::new("z", 1 << 20), BASE).unwrap();
        let second = views.begin(&ram.dma().view());
        assert_ne!(first, second);
        views.end(first, |view| assert!(!view.address_in_range(BASE)));
        views.end(second, |view| assert!(view.address_in_range(BASE)));
        assert_eq!(views.held.len(), 1);
        views.end(first, |view| assert!(!view.address_in_range(BASE)));
        assert!(views.held.is_empty());
    }
}
