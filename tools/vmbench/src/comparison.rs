//! This VMM beside another commit of itself: what got worse by more than noise.

use crate::results::{Contestant, Quantity, Results, Spread, percentile};
use crate::table::align;

/// A change below this share is none, however little noise there is; also what the program's file may grow.
const TOLERANCE: f64 = 0.02;

/// One quantity of both commits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// What was measured.
    pub quantity: Quantity,
    /// Median of the other commit.
    pub before: f64,
    /// Median of this one.
    pub now: f64,
    /// Median of the ratios, now over before, round by round.
    pub ratio: f64,
    /// Half the distance between the quarter points of these ratios: half of all rounds lie within so much of the middle.
    pub noise: f64,
}

impl Change {
    /// Whether it got worse by more than twice the noise, and by more than 2 %.
    pub fn is_worse(&self) -> bool {
        self.is_beyond_noise(if self.quantity.is_rate() { 1.0 - self.ratio } else { self.ratio - 1.0 })
    }

    fn is_better(&self) -> bool {
        self.is_beyond_noise(if self.quantity.is_rate() { self.ratio - 1.0 } else { 1.0 - self.ratio })
    }

    fn is_beyond_noise(&self, change: f64) -> bool {
        change > TOLERANCE.max(2.0 * self.noise)
    }
}

/// Every quantity that was measured of both, in the order of the table.
pub fn changes(results: &Results) -> Vec<Change> {
    let change = |quantity| {
        let median = |who| Spread::of(results.samples(quantity, who)).map(|spread| spread.median);
        let ratios = results.ratios(quantity, Contestant::Before);
        let (low, high) = (percentile(&ratios, 0.25)?, percentile(&ratios, 0.75)?);
        Some(Change {
            quantity,
            before: median(Contestant::Before)?,
            now: median(Contestant::CloudHypervisor)?,
            ratio: Spread::of(&ratios)?.median,
            noise: (high - low) / 2.0,
        })
    };
    results.quantities().into_iter().filter_map(change).collect()
}

/// The changes as a table for people.
pub fn render(changes: &[Change]) -> String {
    let head = ["", "before", "now", "ratio", "noise", "verdict"].map(str::to_owned).to_vec();
    let rows = changes.iter().map(|change| {
        let digits = change.quantity.digits();
        let verdict = match (change.is_worse(), change.is_better()) {
            (true, _) => "WORSE",
            (_, true) => "better",
            _ => "the same",
        };
        vec![
            change.quantity.title().to_owned(),
            format!("{:.digits$}", change.before),
            format!("{:.digits$}", change.now),
            format!("{:.3}", change.ratio),
            format!("± {:.1} %", change.noise * 100.0),
            verdict.to_owned(),
        ]
    });
    align(&std::iter::once(head).chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(quantity: Quantity, rounds: &[(f64, f64)]) -> Results {
        let mut results = Results::default();
        for (before, now) in rounds {
            results.push(quantity, Contestant::Before, *before);
            results.push(quantity, Contestant::CloudHypervisor, *now);
        }
        results
    }

    fn worse(quantity: Quantity, rounds: &[(f64, f64)]) -> bool {
        let changes = changes(&results(quantity, rounds));
        assert_eq!(changes.len(), 1);
        changes[0].is_worse()
    }

    #[test]
    fn times_and_rates() {
        let rounds = [(100.0, 110.0), (101.0, 111.0), (99.0, 109.0), (100.0, 110.0)];
        assert!(worse(Quantity::InitElf, &rounds));
        assert!(!worse(Quantity::RandomRead, &rounds));
        let swapped = rounds.map(|(before, now)| (now, before));
        assert!(!worse(Quantity::InitElf, &swapped));
        assert!(worse(Quantity::RandomRead, &swapped));
    }

    #[test]
    fn noise_is_no_change() {
        assert!(!worse(Quantity::Start, &[(4.0, 5.0), (5.0, 4.5), (4.0, 4.8), (5.0, 4.6)]));
    }

    #[test]
    fn a_program_may_grow_by_two_percent() {
        assert!(!worse(Quantity::Program, &[(100.0, 101.9)]));
        assert!(worse(Quantity::Program, &[(100.0, 102.1)]));
    }

    #[test]
    fn the_table_tells_what_got_worse() {
        let mut results = results(Quantity::Program, &[(4.0, 4.5)]);
        results.push(Quantity::Start, Contestant::CloudHypervisor, 3.0);
        let table = render(&changes(&results));
        assert!(table.contains("4.000") && table.contains("1.125") && table.contains("WORSE"), "{table}");
        assert!(!table.contains("first API reply"), "only what both have: {table}");
    }
}
