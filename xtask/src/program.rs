//! Running a program for what it prints.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A command that runs programs, such as `taskset -c 0,1`; none runs them as they are.
#[derive(Clone, Debug, Default)]
pub struct Runner(pub Option<String>);

impl Runner {
    /// A program, run by it.
    pub fn command(&self, program: &Path) -> Result<Command> {
        let Some(runner) = &self.0 else { return Ok(Command::new(program)) };
        let mut words = runner.split_whitespace();
        let mut command = Command::new(words.next().context("--with: there is no command")?);
        command.args(words).arg(program);
        Ok(command)
    }
}

/// The JSON that a command prints.
pub fn json(command: &mut Command) -> Result<Value> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    let error = String::from_utf8_lossy(&output.stderr);
    let last = error.lines().last().unwrap_or("it says nothing");
    ensure!(output.status.success(), "{}: {last}", output.status);
    serde_json::from_slice(&output.stdout).context("it prints no JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_stands_in_front_of_the_program() {
        let command = |runner: Option<&str>| {
            let runner = Runner(runner.map(str::to_owned));
            runner.command(Path::new("bench")).map(|c| format!("{c:?}").replace('"', ""))
        };
        assert_eq!(command(None).unwrap(), "bench");
        assert_eq!(command(Some("taskset -c 0")).unwrap(), "taskset -c 0 bench");
        assert!(command(Some(" ")).is_err());
    }
}
