//! The table for people: Markdown, with its columns aligned so that it reads as well on a terminal.

use crate::results::{Contestant, Quantity, Results, Spread, Target};

/// The table of all that was measured. A cell is `median (min–max)`; the ratios are this VMM's value over the other's.
pub fn render(results: &Results) -> String {
    let columns: Vec<Contestant> = Contestant::ALL
        .into_iter()
        .filter(|who| results.series.iter().any(|series| series.contestant == *who))
        .collect();
    let others: Vec<Contestant> =
        columns.iter().copied().filter(|who| *who != Contestant::CloudHypervisor).collect();
    let mut head = vec!["".to_owned()];
    head.extend(columns.iter().map(|who| who.name().to_owned()));
    head.extend(others.iter().map(|who| format!("ratio to {}", who.name())));
    head.push("target".to_owned());
    let mut rows = vec![head];
    for quantity in results.quantities() {
        let mut row = vec![quantity.title().to_owned()];
        row.extend(columns.iter().map(|who| cell(results.samples(quantity, *who), quantity.digits())));
        row.extend(others.iter().map(|who| ratio(&results.ratios(quantity, *who))));
        row.push(verdicts(results, quantity));
        rows.push(row);
    }
    align(&rows)
}

fn cell(samples: &[f64], digits: usize) -> String {
    match Spread::of(samples) {
        Some(Spread { min, median, max }) => format!("{median:.digits$} ({min:.digits$}–{max:.digits$})"),
        None => "–".to_owned(),
    }
}

fn ratio(ratios: &[f64]) -> String {
    let small = Spread::of(ratios).is_some_and(|spread| spread.median < 0.1);
    cell(ratios, if small { 3 } else { 2 })
}

fn verdicts(results: &Results, quantity: Quantity) -> String {
    let verdicts = quantity.targets().into_iter().map(|target| verdict(results, quantity, target));
    verdicts.collect::<Vec<_>>().join("; ")
}

fn verdict(results: &Results, quantity: Quantity, target: Target) -> String {
    let median = |samples: &[f64]| Spread::of(samples).map(|spread| spread.median);
    let of_own = |quantity| median(results.samples(quantity, Contestant::CloudHypervisor));
    let own = of_own(quantity);
    let of_other = |other: Contestant, limit: f64| {
        let ratio = median(&results.ratios(quantity, other));
        (format!("≤ {limit} × {}", other.name()), ratio.map(|ratio| ratio <= limit))
    };
    let (aim, met) = match target {
        Target::Below(limit) => (format!("< {limit}"), own.map(|own| own < limit)),
        Target::AtMost(limit) => (format!("≤ {limit}"), own.map(|own| own <= limit)),
        Target::OfMicrovm(limit) => of_other(Contestant::Microvm, limit),
        Target::OfQ35(limit) => of_other(Contestant::Q35, limit),
        Target::Of(other, limit) => {
            let met = own.zip(of_own(other)).map(|(own, other)| own <= limit * other);
            (format!("≤ {limit} × \"{}\"", other.title()), met)
        }
    };
    match met {
        Some(true) => format!("{aim}: met"),
        Some(false) => format!("{aim}: missed"),
        None => aim,
    }
}

pub(crate) fn align(rows: &[Vec<String>]) -> String {
    let count = rows.first().map_or(0, Vec::len);
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = (0..count)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|text| width(text)).max().unwrap_or(0).max(3)
        })
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, wide) in row.iter().zip(&widths) {
            text.push_str(&format!("| {cell}{} ", " ".repeat(wide - width(cell))));
        }
        text.push_str("|\n");
        if number == 0 {
            for wide in &widths {
                text.push_str(&format!("|{}", "-".repeat(wide + 2)));
            }
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let mut results = Results::default();
        for (ours, theirs) in [(500.0, 1000.0), (700.0, 1000.0), (520.0, 1000.0)] {
            results.push(Quantity::InitElf, Contestant::CloudHypervisor, ours);
            results.push(Quantity::InitElf, Contestant::Microvm, theirs);
        }
        results.push(Quantity::Start, Contestant::CloudHypervisor, 5.0);
        results
    }

    #[test]
    fn has_medians_ratios_and_verdicts() {
        let table = render(&results());
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(lines[0].contains("cloud-hypervisor") && lines[0].contains("ratio to microvm"), "{table}");
        assert!(lines[2].contains("5.00 (5.00–5.00)") && lines[2].contains("< 4: missed"), "{table}");
        assert!(lines[3].contains("520 (500–700)") && lines[3].contains("0.52 (0.50–0.70)"), "{table}");
        assert!(lines[3].contains("≤ 0.54 × microvm: met"), "{table}");
    }

    #[test]
    fn own_quantities_are_compared() {
        let mut results = Results::default();
        results.push(Quantity::MappedLarge, Contestant::CloudHypervisor, 12.0);
        assert!(render(&results).contains("copy, 2 GiB, ms\" |"), "nothing to compare with");
        results.push(Quantity::MappedSmall, Contestant::CloudHypervisor, 10.0);
        results.push(Quantity::CopyLarge, Contestant::CloudHypervisor, 100.0);
        let table = render(&results);
        assert!(
            table.contains("256 MiB, ms\": met; ≤ 0.1") && table.contains("copy, 2 GiB, ms\": missed"),
            "{table}"
        );
    }

    #[test]
    fn columns_are_aligned_and_only_those_measured() {
        let table = render(&results());
        let widths: Vec<usize> = table.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{table}");
        assert!(!table.contains("q35"), "{table}");
    }
}
