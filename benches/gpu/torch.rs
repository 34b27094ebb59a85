//! PyTorch, where Python is there and has it.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Whether it is there; else why not.
pub fn find() -> Result<(), String> {
    let mut python = Command::new("python3");
    python
        .args(["-c", "import torch, sys; sys.exit(0 if torch.cuda.is_available() else 'no GPU')"]);
    said(python.stdin(Stdio::null()).output()).map(drop)
}

/// Seconds of one call.
pub fn seconds(question: &Value) -> Result<f64, String> {
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("torch.py")]);
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().map_err(|e| e.to_string())?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(question.to_string().as_bytes()).map_err(|e| e.to_string())?;
    }
    let text = said(child.wait_with_output())?;
    text.trim().parse().map_err(|_| format!("it printed {text:?}, not seconds"))
}

/// What it printed, or the last line of why it failed.
fn said(output: std::io::Result<Output>) -> Result<String, String> {
    let output = output.map_err(|e| format!("python3: {e}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(errors.lines().last().unwrap_or("python3 failed").to_owned())
}
