//! What happened, for people and for programs.

use std::fmt;
use std::time::Duration;

use ferrocerium::Device;
use serde_json::json;

use crate::common::llama::Llama;

/// Tokens, speeds and sizes of one answer.
pub struct Report {
    /// The answer.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    device: Device,
    weight_bytes: usize,
    load: Duration,
    prepare: Duration,
    prompt_tokens: usize,
    prefill: Duration,
    decode: Duration,
}

impl Report {
    pub fn new(model: &Llama, device: &Device, load: Duration) -> Self {
        Report {
            text: String::new(),
            tokens: Vec::new(),
            device: device.clone(),
            weight_bytes: model.weight_bytes(),
            load,
            prepare: Duration::ZERO,
            prompt_tokens: 0,
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        }
    }

    pub fn prepared(&mut self, time: Duration) {
        self.prepare = time;
    }

    pub fn prefilled(&mut self, tokens: usize, time: Duration) {
        self.prompt_tokens = tokens;
        self.prefill = time;
    }

    pub fn generated(&mut self, token: u32, piece: &str) {
        self.tokens.push(token);
        self.text.push_str(piece);
    }

    pub fn decoded(&mut self, time: Duration) {
        self.decode = time;
    }

    fn prefill_tok_s(&self) -> f64 {
        rate(self.prompt_tokens, self.prefill)
    }

    /// The first token comes out of the prompt's run, so one run less than tokens is timed.
    fn decode_tok_s(&self) -> f64 {
        rate(self.tokens.len().saturating_sub(1), self.decode)
    }

    /// One object with everything.
    pub fn to_json(&self) -> serde_json::Value {
        json!({
            "text": self.text,
            "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "load_s": self.load.as_secs_f64(),
            "prepare_s": self.prepare.as_secs_f64(),
            "prefill_tok_s": self.prefill_tok_s(),
            "decode_tok_s": self.decode_tok_s(),
            "weight_bytes": self.weight_bytes,
            "memory_peak_bytes": self.device.memory().peak,
            "device": self.device.name(),
            "numerics": self.device.request().numerics.to_string(),
            "kernels": self.device.launches(),
        })
    }
}

fn rate(tokens: usize, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { tokens as f64 / time.as_secs_f64() }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "[{} · weights {:.0} MB · loaded in {:.1} s · prompt {} tokens at {:.1} tok/s · \
             answer {} tokens at {:.1} tok/s]",
            self.device.name(),
            self.weight_bytes as f64 / 1e6,
            self.load.as_secs_f64(),
            self.prompt_tokens,
            self.prefill_tok_s(),
            self.tokens.len(),
            self.decode_tok_s(),
        )
    }
}
