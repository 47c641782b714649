//! The table of figures, and the same as JSON lines in the file that `AAP_BENCH_OUT` names.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::json;

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Printed to be compared, with no goal of its own.
    Open,
}

/// One measured figure.
#[derive(Debug)]
pub(crate) struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    goal: Goal,
    beside: Option<(String, f64)>,
    note: String,
}

impl Figure {
    /// A figure with no goal and nothing beside it yet.
    pub(crate) fn new(name: &str, value: f64, unit: &'static str) -> Self {
        Self { name: name.to_owned(), value, unit, goal: Goal::Open, beside: None, note: String::new() }
    }

    /// What it should be.
    pub(crate) fn goal(self, goal: Goal) -> Self {
        Self { goal, ..self }
    }

    /// A limit or a peer measured in the same run, in the same unit.
    pub(crate) fn beside(self, what: &str, value: f64) -> Self {
        Self { beside: Some((what.to_owned(), value)), ..self }
    }

    /// How it was measured, where that is not obvious.
    pub(crate) fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    fn verdict(&self) -> &'static str {
        let met = match self.goal {
            Goal::AtLeast(goal) => self.value >= goal,
            Goal::AtMost(goal) => self.value <= goal,
            Goal::Open => return "",
        };
        if met { "met" } else { "SHORT" }
    }

    fn goal_text(&self) -> String {
        match self.goal {
            Goal::AtLeast(goal) => format!("≥ {}", short(goal)),
            Goal::AtMost(goal) => format!("≤ {}", short(goal)),
            Goal::Open => String::new(),
        }
    }

    fn ratio(&self) -> Option<f64> {
        self.beside.as_ref().map(|(_, beside)| self.value / beside)
    }

    fn row(&self) -> [String; 6] {
        let beside = self.beside.as_ref().map(|(what, value)| format!("{} {what}", short(*value)));
        [
            self.name.clone(),
            format!("{} {}", short(self.value), self.unit),
            beside.unwrap_or_default(),
            self.ratio().map(short).unwrap_or_default(),
            self.goal_text(),
            self.verdict().to_owned(),
        ]
    }

    fn json(&self, machine: &str) -> serde_json::Value {
        json!({
            "figure": self.name, "value": self.value, "unit": self.unit,
            "beside": self.beside.as_ref().map(|(what, value)| json!({ "what": what, "value": value })),
            "ratio": self.ratio(), "goal": self.goal_text(), "verdict": self.verdict().to_lowercase(),
            "note": self.note, "machine": machine,
        })
    }
}

/// Three digits that count.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 10_000_000.0 => format!("{:.1} M", value / 1e6),
        size if size >= 1_000_000.0 => format!("{:.2} M", value / 1e6),
        size if size >= 10_000.0 => format!("{:.0} k", value / 1e3),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Appends figures to the file that `AAP_BENCH_OUT` names, if it is set.
pub(crate) fn record(figures: &[Figure], machine: &str) {
    let Some(path) = std::env::var_os("AAP_BENCH_OUT") else { return };
    let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
    for figure in figures {
        writeln!(file, "{}", figure.json(machine)).unwrap();
    }
}

/// Prints rows under the given headings, columns aligned.
pub(crate) fn print(figures: &[Figure]) {
    let headings = ["figure", "value", "beside, same run", "ratio", "goal", ""].map(str::to_owned);
    let rows: Vec<[String; 6]> = std::iter::once(headings).chain(figures.iter().map(Figure::row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    for figure in figures.iter().filter(|figure| !figure.note.is_empty()) {
        println!("  {}: {}", figure.name, figure.note);
    }
}
