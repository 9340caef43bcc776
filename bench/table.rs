//! Medians, and the table they are shown in.

use std::fmt::Write;
use std::time::Duration;

/// Measured values of one thing, in the row's unit.
#[derive(Clone, Debug, Default)]
pub struct Values(Vec<f64>);

impl Values {
    /// Takes one value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Takes a time, in milliseconds.
    pub fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1000.0);
    }

    /// The value at `share` (0 to 1) of the sorted values; 0 without any.
    fn at(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let place = (last as f64 * share).round() as usize;
        sorted.get(place).copied().unwrap_or_default()
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.at(0.5)
    }

    /// The largest one.
    pub fn max(&self) -> f64 {
        self.at(1.0)
    }

    fn text(&self) -> String {
        format!("{} (p90 {}, max {})", short(self.median()), short(self.at(0.9)), short(self.max()))
    }
}

impl FromIterator<f64> for Values {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// The rows of one runtime.
pub struct Table {
    title: String,
    rows: Vec<[String; 6]>,
}

impl Table {
    /// A table about `title`.
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), rows: Vec::new() }
    }

    /// Ours against a peer, with a limit for our median.
    pub fn row(&mut self, what: &str, ours: &Values, peer: Option<(&str, &Values)>, target: Option<f64>) {
        self.push(what, ours, ours.median(), peer, target);
    }

    /// The same where the limit is for how much longer than the peer we take: the median
    /// difference of neighbours, since a machine's speed drifts.
    pub fn row_beyond(&mut self, what: &str, ours: &Values, peer: (&str, &Values), target: f64) {
        let differences: Values = ours.0.iter().zip(&peer.1.0).map(|(ours, peer)| ours - peer).collect();
        let beyond = differences.median();
        self.push(what, ours, beyond, Some(peer), Some(target));
        if let Some(row) = self.rows.last_mut() {
            row[4] = format!("{:+.2} of ≤ +{}", beyond, short(target));
        }
    }

    fn push(&mut self, what: &str, ours: &Values, judged: f64, peer: Option<(&str, &Values)>, target: Option<f64>) {
        let (name, ratio) = match peer {
            Some((name, values)) => {
                (format!("{name} {}", short(values.median())), format!("{:.2}", ours.median() / values.median()))
            }
            None => (String::new(), String::new()),
        };
        let met = target.map_or("", |target| if judged <= target { "yes" } else { "NO" });
        self.rows.push([
            format!("{what}, n={}", ours.0.len()),
            ours.text(),
            name,
            ratio,
            target.map_or(String::new(), |target| format!("≤ {}", short(target))),
            met.to_owned(),
        ]);
    }

    /// The table, columns aligned.
    pub fn text(&self) -> String {
        let head = ["", "median", "peer's median", "ratio", "target", "met"].map(str::to_owned);
        let all: Vec<_> = std::iter::once(&head).chain(&self.rows).collect();
        let widths: Vec<usize> = (0..head.len())
            .map(|column| all.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = format!("\n{}\n", self.title);
        for row in all {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let line = cells.collect::<Vec<_>>().join("  ");
            let _ = writeln!(text, "{}", line.trim_end());
        }
        text
    }
}

/// Three digits are all that such measurements carry.
fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
