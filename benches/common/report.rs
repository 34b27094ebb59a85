//! What a bench prints: a table as it goes, or one JSON object at the end.

use ferrocerium::Device;
use serde_json::{Value, json};

use super::Limits;

/// Rows on their way to people or programs.
pub struct Report {
    as_json: bool,
    caps: String,
    limits: Vec<Value>,
    rows: Vec<Value>,
}

impl Report {
    /// A report as JSON where the command line says so.
    pub fn new(device: &Device, limits: &[&Limits], header: &str) -> Self {
        Self::as_json(std::env::args().any(|arg| arg == "--json"), device, limits, header)
    }

    /// A report for programs or for people.
    pub fn as_json(as_json: bool, device: &Device, limits: &[&Limits], header: &str) -> Self {
        let caps = device.caps().to_string();
        if !as_json {
            println!("{caps}");
            limits.iter().for_each(|limits| println!("limits of {limits}"));
            println!("\n{header}");
        }
        let limits = limits.iter().map(|limits| limits.json()).collect();
        Report { as_json, caps, limits, rows: Vec::new() }
    }

    /// A row, for people and for programs.
    pub fn row(&mut self, line: &str, json: Value) {
        if !self.as_json {
            println!("{line}");
        }
        self.rows.push(json);
    }

    /// Prints what is for programs.
    pub fn finish(self) {
        if self.as_json {
            let Report { caps, limits, rows, .. } = self;
            println!("{}", json!({"caps": caps, "limits": limits, "rows": rows}));
        }
    }
}
