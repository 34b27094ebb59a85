//! `cargo xtask chat "…"`: the chat example, with the default model unless one is given.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use anyhow::Result;

use crate::{cargo, model};

/// Builds and runs `examples/chat` on a prompt.
pub fn run(args: Vec<OsString>) -> Result<ExitCode> {
    let mut command = cargo::command("run");
    command.args(["--release", "--example", "chat", "--"]);
    if !names_model(&args) {
        command.arg("--model").arg(model::fetch()?);
    }
    command.args(example_args(args));
    cargo::replace_by(command)
}

/// Whether the example has no use for the default model: the user names one, or wants help.
fn names_model(args: &[OsString]) -> bool {
    args.iter().take_while(|a| *a != "--").any(|arg| {
        arg.to_str().is_some_and(|a| {
            a == "--model" || a.starts_with("--model=") || a == "--help" || a == "-h"
        })
    })
}

/// The arguments for the example: a first argument that is not a flag is the prompt.
fn example_args(args: Vec<OsString>) -> Vec<OsString> {
    let is_flag = |arg: &OsStr| arg.as_encoded_bytes().first() == Some(&b'-');
    let mut args = args.into_iter().peekable();
    let prompt = args.next_if(|arg| !is_flag(arg));
    prompt.into_iter().flat_map(|text| [OsString::from("--prompt"), text]).chain(args).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<OsString> {
        line.iter().map(OsString::from).collect()
    }

    #[test]
    fn the_first_word_is_the_prompt_and_flags_pass_through() {
        assert_eq!(
            example_args(words(&["Why?", "--seed", "7"])),
            words(&["--prompt", "Why?", "--seed", "7"])
        );
        assert_eq!(example_args(words(&["--prompt", "-1 + 1?"])), words(&["--prompt", "-1 + 1?"]));
        assert_eq!(example_args(words(&[])), words(&[]));
    }

    #[test]
    fn no_model_is_fetched_when_one_is_named() {
        assert!(names_model(&words(&["Why?", "--model", "a.gguf"])));
        assert!(names_model(&words(&["Why?", "--model=a.gguf"])));
        assert!(names_model(&words(&["--help"])));
        assert!(!names_model(&words(&["Why --model?", "--seed", "7"])));
    }
}
