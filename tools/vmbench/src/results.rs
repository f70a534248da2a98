//! Samples of one run: every contestant's value of every quantity, one per round.

use serde::{Deserialize, Serialize};

pub use crate::quantity::{Quantity, Target};

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Contestant {
    /// This VMM.
    CloudHypervisor,
    /// This VMM as another commit has it.
    Before,
    /// QEMU with `-M microvm`.
    Microvm,
    /// The same with a real-time clock, which Linux looks for a long time if there is none.
    MicrovmRtc,
    /// QEMU with `-M q35`.
    Q35,
}

impl Contestant {
    /// All, in the order of the table's columns.
    pub const ALL: [Self; 5] =
        [Self::CloudHypervisor, Self::Before, Self::Microvm, Self::MicrovmRtc, Self::Q35];
    /// What a bench of this VMM boots.
    pub const BOOTED: [Self; 4] = [Self::CloudHypervisor, Self::Microvm, Self::MicrovmRtc, Self::Q35];
    /// Those of them to whom more is done.
    pub const MAIN: [Self; 3] = [Self::CloudHypervisor, Self::Microvm, Self::Q35];
    /// What a bench against another commit measures.
    pub const OURS: [Self; 2] = [Self::CloudHypervisor, Self::Before];

    /// What the table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Before => "before",
            Self::Microvm => "microvm",
            Self::MicrovmRtc => "microvm,rtc=on",
            Self::Q35 => "q35",
        }
    }
}

impl Contestant {
    /// This VMM, of whichever commit.
    pub fn is_ours(self) -> bool {
        Self::OURS.contains(&self)
    }
}

/// All samples of one quantity of one contestant, in the order of the rounds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    /// What was measured.
    pub quantity: Quantity,
    /// Whose.
    pub contestant: Contestant,
    /// One value a round.
    pub samples: Vec<f64>,
}

/// What one run of the program measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The samples.
    pub series: Vec<Series>,
    /// The command lines measured: title and text.
    pub commands: Vec<(String, String)>,
}

impl Results {
    /// Adds one round's value.
    pub fn push(&mut self, quantity: Quantity, contestant: Contestant, value: f64) {
        let same = |s: &&mut Series| s.quantity == quantity && s.contestant == contestant;
        match self.series.iter_mut().find(same) {
            Some(series) => series.samples.push(value),
            None => self.series.push(Series { quantity, contestant, samples: vec![value] }),
        }
    }

    /// Remembers a command line; the first of a title stays.
    pub fn command(&mut self, title: &str, text: &str) {
        if !self.commands.iter().any(|(old, _)| old == title) {
            self.commands.push((title.to_owned(), text.to_owned()));
        }
    }

    /// Takes over what another run measured.
    pub fn merge(&mut self, other: Self) {
        for series in other.series {
            for value in series.samples {
                self.push(series.quantity, series.contestant, value);
            }
        }
        for (title, text) in other.commands {
            self.command(&title, &text);
        }
    }

    /// The samples of one quantity of one contestant; empty if it was not measured.
    pub fn samples(&self, quantity: Quantity, contestant: Contestant) -> &[f64] {
        let same = |s: &&Series| s.quantity == quantity && s.contestant == contestant;
        self.series.iter().find(same).map_or(&[], |series| &series.samples)
    }

    /// The quantities measured, in the order of the table.
    pub fn quantities(&self) -> Vec<Quantity> {
        let mut quantities: Vec<Quantity> = self.series.iter().map(|s| s.quantity).collect();
        quantities.sort();
        quantities.dedup();
        quantities
    }

    /// This VMM's value over the other's, round by round: what was measured one after the other is compared.
    pub fn ratios(&self, quantity: Quantity, to: Contestant) -> Vec<f64> {
        let ours = self.samples(quantity, Contestant::CloudHypervisor);
        ours.iter().zip(self.samples(quantity, to)).map(|(ours, theirs)| ours / theirs).collect()
    }
}

/// Smallest, middle and largest of some samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The median; the mean of the middle two if there is no middle one.
    pub median: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let upper = *sorted.get(middle)?;
        let lower = if sorted.len().is_multiple_of(2) { sorted[middle - 1] } else { upper };
        Some(Self { min: sorted[0], median: (lower + upper) / 2.0, max: sorted[sorted.len() - 1] })
    }
}

/// The sample below which this share of all samples lies; `None` without samples.
pub fn percentile(samples: &[f64], share: f64) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last as f64 * share).round() as usize).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Contestant::{CloudHypervisor, Microvm};

    #[test]
    fn spread() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
    }

    #[test]
    fn percentiles() {
        let samples: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.5), Some(50.0));
        assert_eq!(percentile(&samples, 0.99), Some(99.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn ratios_are_of_one_round() {
        let mut results = Results::default();
        for (ours, theirs) in [(1.0, 2.0), (3.0, 4.0)] {
            results.push(Quantity::InitElf, CloudHypervisor, ours);
            results.push(Quantity::InitElf, Microvm, theirs);
        }
        assert_eq!(results.ratios(Quantity::InitElf, Microvm), [0.5, 0.75]);
        assert!(results.ratios(Quantity::InitElf, Contestant::Q35).is_empty());
    }

    #[test]
    fn merging_keeps_all() {
        let mut one = Results::default();
        one.push(Quantity::Start, CloudHypervisor, 1.0);
        one.command("a", "first");
        let mut two = Results::default();
        two.push(Quantity::Start, CloudHypervisor, 2.0);
        two.push(Quantity::Send, Microvm, 3.0);
        two.command("a", "second");
        one.merge(two);
        assert_eq!(one.samples(Quantity::Start, CloudHypervisor), [1.0, 2.0]);
        assert_eq!(one.quantities(), [Quantity::Start, Quantity::Send]);
        assert_eq!(one.commands, [("a".to_owned(), "first".to_owned())]);
    }

    #[test]
    fn json_comes_back() {
        let mut results = Results::default();
        results.push(Quantity::CallTail, Contestant::Q35, 0.25);
        let text = serde_json::to_string(&results).unwrap();
        assert!(text.contains("call-tail") && text.contains("q35"), "{text}");
        assert_eq!(serde_json::from_str::<Results>(&text).unwrap(), results);
    }
}
