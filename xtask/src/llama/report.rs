//! What was measured, for people and for programs.

use std::fmt;

use serde_json::{Value, json};

/// A run of a model.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Bytes of weights, all of which a token reads.
    pub weight_bytes: f64,
    /// Tokens a second of a prompt, and one by one.
    pub prefill: f64,
    pub decode: f64,
}

/// All runs of some weights by one of the two.
struct Row {
    ours: bool,
    /// Type of the weights.
    weights: String,
    /// Whether our products round activations to int8.
    narrowed: bool,
    /// Our weights that are compared with these.
    group: String,
    runs: Vec<Measured>,
}

/// What the machine does at most, measured beside a run.
#[derive(Clone, Copy)]
struct Limits {
    flops: f64,
    bytes: f64,
}

/// Everything that was measured.
pub struct Report {
    threads: usize,
    rows: Vec<Row>,
    limits: Vec<Limits>,
}

impl Report {
    pub fn new(threads: usize) -> Self {
        Report { threads, rows: Vec::new(), limits: Vec::new() }
    }

    /// A run of llama.cpp that is compared with our weights of the group.
    pub fn theirs(&mut self, weights: &str, group: &str, run: Measured) {
        self.add((false, false), weights, group, run);
    }

    /// A run of this library, with activations rounded to int8 or not.
    pub fn ours(&mut self, weights: &str, narrowed: bool, run: Measured) {
        self.add((true, narrowed), weights, weights, run);
    }

    /// What our bench says of the machine.
    pub fn limits(&mut self, json: Value) {
        let number = |name: &str| json[name].as_f64();
        if let (Some(flops), Some(bytes)) = (number("flops"), number("bytes_per_s")) {
            self.limits.push(Limits { flops, bytes });
        }
    }

    fn add(&mut self, (ours, narrowed): (bool, bool), weights: &str, group: &str, run: Measured) {
        let is_it =
            |row: &&mut Row| (row.ours, row.narrowed) == (ours, narrowed) && row.weights == weights;
        match self.rows.iter_mut().find(is_it) {
            Some(row) => row.runs.push(run),
            None => self.rows.push(Row {
                ours,
                narrowed,
                weights: weights.to_owned(),
                group: group.to_owned(),
                runs: vec![run],
            }),
        }
    }

    /// The machine's limits, medians of all runs.
    fn machine(&self) -> Limits {
        Limits {
            flops: median(self.limits.iter().map(|l| l.flops)),
            bytes: median(self.limits.iter().map(|l| l.bytes)),
        }
    }

    /// How many times as fast as the fastest of llama.cpp's that it is compared with: the median
    /// of what the rounds say, each by itself.
    fn ratio(&self, row: &Row, speed: fn(&Measured) -> f64) -> Option<f64> {
        let peers = || self.rows.iter().filter(|peer| !peer.ours && peer.group == row.group);
        if !row.ours || peers().next().is_none() {
            return None;
        }
        let of_round = |(round, run): (usize, &Measured)| {
            let best = peers().filter_map(|peer| peer.runs.get(round)).map(speed);
            speed(run) / best.fold(0.0, f64::max)
        };
        Some(median(row.runs.iter().enumerate().map(of_round)))
    }

    pub fn to_json(&self) -> Value {
        let limits = self.machine();
        let rows = self.rows.iter().map(|row| {
            let (prefill, decode) = (row.median(|r| r.prefill), row.median(|r| r.decode));
            let weight_bytes = row.median(|r| r.weight_bytes);
            json!({
                "by": row.by(), "weights": row.weights, "class": row.class(),
                "weight_bytes": weight_bytes,
                "prefill_tokens": 512, "prefill_tok_s": prefill,
                "prefill_vs_llama": self.ratio(row, |r| r.prefill),
                "decode_tokens": 128, "decode_tok_s": decode,
                "decode_vs_llama": self.ratio(row, |r| r.decode),
                "decode_share_of_bandwidth": decode * weight_bytes / limits.bytes,
                "rounds": row.runs.len(),
            })
        });
        json!({
            "limits": {
                "threads": self.threads, "flops": limits.flops, "bytes_per_s": limits.bytes,
            },
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

impl Row {
    fn median(&self, value: fn(&Measured) -> f64) -> f64 {
        median(self.runs.iter().map(value))
    }

    fn by(&self) -> &'static str {
        if self.ours { "ferrocerium" } else { "llama.cpp" }
    }

    /// Bits of weights and of the activations they are multiplied with.
    ///
    /// Ours are f32, as the bench runs the model, or int8 with a scale for 16. llama.cpp rounds each
    /// row of activations to what the kernel of the weights' type takes: 8 bits with a scale for 32
    /// of them, or bf16.
    fn class(&self) -> &'static str {
        match (self.ours, self.weights.as_str()) {
            (true, "nvfp4" | "mxfp4") if self.narrowed => "W4A8",
            (true, "nvfp4" | "mxfp4") => "W4A32",
            (true, "fp8") => "W8A32",
            (true, "bf16") => "W16A32",
            (false, "Q4_0" | "Q4_1" | "MXFP4_MOE") => "W4A8",
            (false, "Q8_0") => "W8A8",
            (false, "BF16") => "W16A16",
            _ => "W32A32",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limits = self.machine();
        writeln!(
            f,
            "limits of {} threads: {:.1} GFLOP/s, {:.1} GB/s read\n",
            self.threads,
            limits.flops / 1e9,
            limits.bytes / 1e9
        )?;
        writeln!(
            f,
            "{:<12} {:<10} {:<7} {:>9} {:>14} {:>9} {:>14} {:>9} {:>13}",
            "by",
            "weights",
            "class",
            "MB/token",
            "prefill tok/s",
            "vs peer",
            "decode tok/s",
            "vs peer",
            "of bandwidth"
        )?;
        for row in &self.rows {
            let (decode, bytes) = (row.median(|r| r.decode), row.median(|r| r.weight_bytes));
            let ratio =
                |speed| self.ratio(row, speed).map_or(String::new(), |r| format!("{r:.2}×"));
            writeln!(
                f,
                "{:<12} {:<10} {:<7} {:>9.1} {:>14.1} {:>9} {:>14.1} {:>9} {:>12.0}%",
                row.by(),
                row.weights,
                row.class(),
                bytes / 1e6,
                row.median(|r| r.prefill),
                ratio(|r| r.prefill),
                decode,
                ratio(|r| r.decode),
                100.0 * decode * bytes / limits.bytes
            )?;
        }
        Ok(())
    }
}

/// The middle value, or the mean of the two in the middle; NaN of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = &values[values.len().saturating_sub(1) / 2..values.len() / 2 + 1];
    middle.iter().sum::<f64>() / middle.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(prefill: f64) -> Measured {
        Measured { weight_bytes: 1e6, prefill, decode: 2.0 * prefill }
    }

    #[test]
    fn a_median_is_the_value_in_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
    }

    #[test]
    fn a_ratio_is_the_median_of_the_rounds_against_the_fastest_peer_of_each() {
        let mut report = Report::new(2);
        for (a, b, ours) in [(1.0, 2.0, 4.0), (10.0, 5.0, 30.0), (1.0, 1.0, 9.0)] {
            report.theirs("Q4_0", "nvfp4", run(a));
            report.theirs("Q4_1", "nvfp4", run(b));
            report.ours("nvfp4", false, run(ours));
            report.ours("nvfp4", true, run(2.0 * ours));
        }
        report.limits(json!({"flops": 1e9, "bytes_per_s": 1e8}));
        let json = report.to_json();
        assert_eq!(json["rows"].as_array().map(Vec::len), Some(4));
        let classes = [2, 3].map(|row: usize| json["rows"][row]["class"].clone());
        assert_eq!(classes, ["W4A32", "W4A8"]);
        assert_eq!(json["rows"][3]["prefill_vs_llama"], 6.0);
        assert_eq!(json["rows"][2]["prefill_vs_llama"], 3.0);
        assert_eq!(json["rows"][2]["decode_tok_s"], 18.0);
        assert_eq!(json["rows"][2]["decode_share_of_bandwidth"], 0.18);
        assert!(json["rows"][0]["prefill_vs_llama"].is_null());
        assert!(report.to_string().contains("3.00×"), "{report}");
    }
}
