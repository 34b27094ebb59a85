//! The chat and perplexity examples as their users meet them: flags, output, errors.
#![cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]
#![allow(missing_docs)]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/gguf_file.rs"]
mod gguf_file;
#[path = "common/ops.rs"]
mod ops;
#[path = "common/program.rs"]
mod program;
#[path = "common/safetensors_file.rs"]
mod safetensors_file;
#[path = "common/tiny_model.rs"]
mod tiny_model;
#[path = "common/vocabulary.rs"]
mod vocabulary;

use std::path::{Path, PathBuf};
use std::process::Command;

use folder::Folder;
use program::{example, fails, finish, succeeds};
use serde_json::{Value, json};
use tiny_model::{CONTEXT, LLAMA, QWEN3};

const FACTORS: [f32; 3] = [1.570_796_4, 4.0, 4.0];

/// A folder with the file `model.gguf`.
fn model(name: &str) -> (Folder, PathBuf) {
    let folder = Folder::new(&format!("chat-{name}"));
    let path = folder.write("model.gguf", LLAMA.gguf(&FACTORS).bytes());
    (folder, path)
}

fn chat(model: &Path, more: &[&str]) -> Command {
    let mut command = example("chat");
    command.arg("--model").arg(model).args(["--prompt", "hello"]).args(more);
    command
}

/// The JSON of a greedy run of 6 tokens.
fn greedy(model: &Path, more: &[&str]) -> Value {
    let mut command = chat(model, &["--raw", "--temperature", "0", "--max-tokens", "6", "--json"]);
    serde_json::from_str(&succeeds(command.args(more))).unwrap()
}

#[test]
fn the_json_says_what_was_made_and_how_fast() {
    let (_folder, path) = model("json");
    let report = greedy(&path, &[]);
    assert_eq!(report["prompt_tokens"], 2, "hell + o");
    let tokens = report["tokens"].as_array().unwrap();
    assert!((1..=6).contains(&tokens.len()), "{report}");
    assert!(report["text"].is_string() && report["device"] == "cpu");
    assert!(report["prefill_tok_s"].as_f64().unwrap() > 0.0);
    assert!(report["decode_tok_s"].as_f64().unwrap() >= 0.0);
    assert!(report["memory_peak_bytes"].as_u64().unwrap() > 0);
    // Embedding 266 × 24, and for each of 2 layers: q, o 24 × 24, k, v 12 × 24, three of 20 × 24.
    let weights = 266 * 24 + 2 * (2 * 24 * 24 + 2 * 12 * 24 + 3 * 20 * 24);
    assert_eq!(report["weight_bytes"], 4 * weights);
    assert!(report["kernels"]["cpu.gemm"].as_u64().unwrap() > 0, "{report}");
}

#[test]
fn activations_are_rounded_to_int8_only_where_the_command_line_says_so() {
    let (_folder, path) = model("w4a8");
    for (more, numerics, rounds) in [
        (&["--format", "nvfp4"][..], "as given", false),
        (&["--format", "nvfp4", "--w4a8"], "narrowed operands", true),
        (&["--w4a8"], "narrowed operands", false),
    ] {
        let report = greedy(&path, more);
        assert_eq!(report["numerics"], numerics);
        assert_eq!(report["kernels"]["cpu.gemm.int8"].is_u64(), rounds, "{more:?}: {report}");
    }
}

#[test]
fn the_text_streams_to_stdout_and_the_summary_to_stderr() {
    let (_folder, path) = model("text");
    let args = ["--raw", "--temperature", "0", "--max-tokens", "6"];
    let (output, out, err) = finish(&mut chat(&path, &args));
    assert!(output.status.success(), "{err}");
    let expected = greedy(&path, &[]);
    assert_eq!(out, format!("{}\n", expected["text"].as_str().unwrap()));
    assert!(err.contains("tok/s") && err.lines().count() == 1, "{err}");
}

#[test]
fn a_file_and_a_folder_of_one_model_give_the_same_tokens_on_every_device() {
    let (folder, path) = model("same");
    LLAMA.write_folder(&folder);
    let expected = &greedy(&path, &[])["tokens"];
    for more in [&["--threads", "1"][..], &["--device", "reference"], &["--device", "cpu"]] {
        assert_eq!(&greedy(&path, more)["tokens"], expected, "{more:?}");
    }
    // The folder, and a file in it.
    let in_folder = folder.path().join("model.safetensors");
    assert_eq!(&greedy(&in_folder, &[])["tokens"], expected);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(&greedy(folder.path(), &[])["tokens"], expected);
}

/// Whether GPUs can be emulated here, as they must be in CI.
#[cfg(feature = "emulator")]
fn emulates() -> bool {
    let Err(error) = ferrocerium::Device::emulated(ferrocerium::caps::Arch::SM121A) else {
        return true;
    };
    assert!(!std::env::var("CI").is_ok_and(|ci| ci == "true"), "{error}");
    eprintln!("skipped: {error}");
    false
}

#[cfg(feature = "emulator")]
#[test]
fn gpu_kernels_give_the_tokens_of_the_cpu_and_nothing_runs_by_the_reference() {
    if !emulates() {
        return;
    }
    let (_folder, path) = model("gpu");
    // 16 bits of everything, which is what tensor cores multiply.
    let narrow = ["--format", "bf16", "--activations", "bf16"];
    let expected = greedy(&path, &narrow);
    for device in ["emulated:sm_121a", "emulated:sm_90a", "emulated:sm_90a:discrete"] {
        let report = greedy(&path, &["--format", "bf16", "--device", device]);
        assert_eq!(report["tokens"], expected["tokens"], "{device}");
        assert_eq!(report["device"], device.trim_end_matches(":discrete"));
        let kernels = report["kernels"].as_object().unwrap();
        let others: Vec<_> = kernels.keys().filter(|k| !k.starts_with("cuda.")).collect();
        assert!(others.is_empty(), "{report}");
        for op in ["gemm", "attention", "norm", "rope", "elementwise", "gather", "top_k", "scatter"]
        {
            assert!(kernels.keys().any(|k| k.starts_with(&format!("cuda.{op}"))), "{op}: {report}");
        }
        // Operations one by one instead of one recorded step for each token.
        let plain = greedy(&path, &["--format", "bf16", "--device", device, "--no-graph"]);
        assert_eq!(plain["tokens"], expected["tokens"], "{device}");
        assert!(plain["kernels"]["cuda.scatter"].is_null(), "{plain}");
    }
    // Matrices of the same inputs in one, which saves a launch for each: of NVFP4, of one layer.
    let answer = |more: &[&str]| {
        greedy(
            &path,
            &[&["--format", "nvfp4", "--activations", "bf16", "--layers", "1"], more].concat(),
        )
    };
    let expected = answer(&[]);
    let products = |report: &Value| -> u64 {
        let kernels = report["kernels"].as_object().unwrap();
        let gemm = kernels.iter().filter(|(name, _)| name.starts_with("cuda.gemm"));
        gemm.map(|(_, launches)| launches.as_u64().unwrap()).sum()
    };
    for device in ["emulated:sm_121a", "emulated:sm_90a:discrete"] {
        let joined = answer(&["--device", device, "--no-graph"]);
        assert_eq!(joined["tokens"], expected["tokens"], "{device}");
        let apart = answer(&["--device", device, "--no-graph", "--no-join"]);
        assert_eq!(joined["tokens"], apart["tokens"], "{device}");
        assert!(products(&joined) < products(&apart), "{joined}\n{apart}");
    }
    // Random choices among a few, and among all.
    for few in ["5", "0"] {
        let answer = |more: &[&str]| {
            let args =
                ["--raw", "--json", "--temperature", "1", "--seed", "7", "--max-tokens", "4"];
            let mut command = chat(&path, &args);
            command.args(["--format", "bf16", "--device", "emulated:sm_90a:discrete"]);
            let out = succeeds(command.args(["--top-k", few]).args(more));
            serde_json::from_str::<Value>(&out).unwrap()["tokens"].clone()
        };
        assert_eq!(answer(&[]), answer(&["--no-graph"]), "{few}");
    }
}

#[cfg(feature = "emulator")]
#[test]
fn a_rotated_model_gives_the_same_tokens_recorded_or_not_on_cpus_and_gpus() {
    if !emulates() {
        return;
    }
    let (folder, source) = (Folder::new("chat-rotated"), Folder::new("chat-rotated-source"));
    // Heads of 8 hold whole blocks of 4, those of LLAMA do not.
    QWEN3.write_folder(&source);
    let text = folder.write("text.txt", "Listen: Billy has come unstuck in time. ".repeat(4));
    let calibrate = ["--context", "32", "--calibrate", text.to_str().unwrap()];
    let rotated = calibrated(source.path(), &folder, "rotated_gptq", &calibrate);
    let expected = greedy(&rotated, &["--activations", "bf16"]);
    assert_eq!(greedy(&rotated, &["--no-graph"])["tokens"], greedy(&rotated, &[])["tokens"]);
    for device in ["emulated:sm_121a", "emulated:sm_90a:discrete"] {
        let report = greedy(&rotated, &["--device", device]);
        assert_eq!(report["tokens"], expected["tokens"], "{device}");
        let kernels = report["kernels"].as_object().unwrap();
        assert!(kernels.keys().all(|kernel| kernel.starts_with("cuda.")), "{report}");
        let plain = greedy(&rotated, &["--device", device, "--no-graph"]);
        assert_eq!(plain["tokens"], expected["tokens"], "{device}");
    }
}

#[cfg(feature = "emulator")]
#[test]
fn kernels_of_an_answer_are_compiled_before_it_begins() {
    if ferrocerium::Device::emulated(ferrocerium::caps::Arch::SM90A).is_err() {
        return; // no NVRTC here: see above
    }
    let (folder, path) = model("ahead");
    let cache = folder.path().join("kernels");
    let compiled = |tokens: &str| {
        let args = ["--raw", "--temperature", "0", "--json", "--format", "bf16", "--layers", "1"];
        let mut command = chat(&path, &args);
        command.env("FERROCERIUM_KERNEL_CACHE", &cache).args(["--max-tokens", tokens]);
        let out = succeeds(command.args(["--device", "emulated:sm_90a"]));
        let report: Value = serde_json::from_str(&out).unwrap();
        assert!(report["prepare_s"].as_f64().unwrap() > 0.0, "{report}");
        cache.read_dir().unwrap().count()
    };
    // The first token comes out of the prompt: what makes others has not run.
    let ahead = compiled("1");
    assert!(ahead >= 8, "{ahead}");
    assert_eq!(compiled("3"), ahead);
}

#[test]
fn a_gpu_without_its_driver_is_an_error_that_says_what_was_looked_for_where() {
    let (_folder, path) = model("no-gpu");
    let mut command = chat(&path, &["--device", "cuda:99"]);
    #[cfg(feature = "cuda")]
    match ferrocerium::Device::cuda_count() {
        0 => fails(&mut command, &["cuda:99", "libcuda.so.1", "library path", "driver"]),
        count => fails(&mut command, &["cuda:99", &format!("{count} GPUs")]),
    }
    #[cfg(not(feature = "cuda"))]
    fails(&mut command, &["cuda:99", "--features cuda"]);
}

#[test]
fn every_format_and_quantizer_runs_and_says_its_bytes() {
    let (_folder, path) = model("formats");
    let bytes = |args: &[&str]| greedy(&path, args)["weight_bytes"].as_u64().unwrap();
    let keep = bytes(&[]);
    assert_eq!(bytes(&["--format", "f32"]), keep);
    assert_eq!(bytes(&["--format", "bf16"]), keep / 2);
    let fp8 = bytes(&["--format", "fp8"]);
    let mxfp8 = bytes(&["--format", "mxfp8"]);
    let mxfp4 = bytes(&["--format", "mxfp4", "--quantizer", "ocp_ceil"]);
    let nvfp4 = bytes(&["--format", "nvfp4", "--quantizer", "four_over_six"]);
    assert_eq!(nvfp4, bytes(&["--format", "nvfp4", "--quantizer", "mse"]));
    assert!(keep / 2 > fp8 && fp8 > mxfp4 && mxfp8 > nvfp4, "{fp8} {mxfp8} {mxfp4} {nvfp4}");
}

#[test]
fn the_same_seed_gives_the_same_answer() {
    let (_folder, path) = model("seed");
    let warm = |seed: &str| {
        let args = ["--raw", "--temperature", "2", "--top-k", "0", "--top-p", "1", "--json"];
        let mut command = chat(&path, &args);
        let out = succeeds(command.args(["--max-tokens", "12", "--seed", seed]));
        let report: Value = serde_json::from_str(&out).unwrap();
        report["tokens"].clone()
    };
    assert_eq!(warm("1"), warm("1"));
    assert_ne!(warm("1"), warm("2"));
}

#[test]
fn the_chat_template_is_used_unless_the_prompt_is_raw() {
    let (_folder, path) = model("template");
    let tokens = |args: &[&str]| {
        let mut command = chat(&path, &["--json", "--max-tokens", "1", "--temperature", "0"]);
        let out = succeeds(command.args(args));
        serde_json::from_str::<Value>(&out).unwrap()["prompt_tokens"].as_u64().unwrap()
    };
    // "user: hello\n" and "system: hi\n" in single bytes, but for "hell".
    assert_eq!(tokens(&[]), 9);
    assert_eq!(tokens(&["--system", "hi"]), 9 + 11);
}

#[test]
fn generation_ends_where_the_context_does() {
    let (_folder, path) = model("context");
    let mut command =
        chat(&path, &["--raw", "--json", "--temperature", "0", "--max-tokens", "999"]);
    let report: Value = serde_json::from_str(&succeeds(&mut command)).unwrap();
    let tokens = report["tokens"].as_array().unwrap().len();
    assert!(tokens <= CONTEXT - 2, "{tokens}");
}

#[test]
fn flags_that_do_not_fit_are_one_line_that_says_what_would() {
    let (_folder, path) = model("flags");
    let wrong = |args: &[&str], parts: &[&str]| fails(&mut chat(&path, args), parts);
    wrong(&["--format", "int4"], &["`int4`", "nvfp4"]);
    wrong(&["--quantizer", "mse"], &["format keep is not quantised", "leave it out"]);
    wrong(&["--format", "mxfp4", "--quantizer", "four_over_six"], &["mxfp4", "ocp"]);
    wrong(&["--format", "nvfp4", "--quantizer", "best"], &["best", "amax"]);
    wrong(&["--temperature", "-1"], &["temperature -1"]);
    wrong(&["--temperature", "nan"], &["temperature NaN"]);
    wrong(&["--top-p", "0"], &["top-p 0"]);
    wrong(&["--threads", "0"], &["threads", "at least 1"]);
    wrong(&["--layers", "3"], &["--layers 3", "the model has 2"]);
    let mut empty = example("chat");
    empty.arg("--model").arg(&path).args(["--raw", "--prompt", ""]);
    fails(&mut empty, &["prompt is empty"]);
    // What clap finds has its own form, and exit code 2.
    for args in [
        &["--max-tokens", "-3"][..],
        &["--device", "gpu"],
        &["--device", "cuda:x"],
        &["--surprise"],
    ] {
        let (output, out, err) = finish(&mut chat(&path, args));
        assert_eq!((output.status.code(), out.as_str()), (Some(2), ""), "{err}");
        assert!(err.starts_with("error: "), "{err}");
    }
    let help = succeeds(example("chat").arg("--help"));
    for flag in ["--model", "--raw", "--quantizer", "--device", "--json", "--seed"] {
        assert!(help.contains(flag), "{help}");
    }
}

#[test]
fn a_prompt_longer_than_the_context_is_refused_with_both_lengths() {
    let (_folder, path) = model("long");
    let mut command = example("chat");
    let long = "x".repeat(CONTEXT);
    fails(
        command.arg("--model").arg(&path).args(["--raw", "--prompt", &long]),
        &["64 tokens", "context 64", "shorten"],
    );
}

#[test]
fn files_that_are_not_models_are_refused_with_their_name() {
    let folder = Folder::new("chat-bad");
    let refused = |path: &Path, parts: &[&str]| {
        let name = path.file_name().unwrap().to_str().unwrap();
        fails(&mut chat(path, &["--raw"]), &[parts, &[name]].concat());
    };
    refused(&folder.path().join("none.gguf"), &["No such file"]);
    refused(folder.path(), &["safetensors"]);
    refused(&folder.write("text.gguf", "This is no model."), &["GGUF"]);
    refused(&folder.write("empty.gguf", ""), &["GGUF"]);
    let whole = LLAMA.gguf(&FACTORS).bytes();
    for share in [8, 100, whole.len() / 2, whole.len() - 1] {
        refused(&folder.write("cut.gguf", &whole[..share]), &[]);
    }
    // Every 97th byte of the header turned round: an error or an answer, never a panic.
    let header = whole.len() - LLAMA.weights().iter().map(|w| 4 * w.values.len()).sum::<usize>();
    for at in (0..header).step_by(header / 40) {
        let mut garbled = whole.clone();
        garbled[at] ^= 0xFF;
        let path = folder.write("garbled.gguf", garbled);
        let (output, _, err) = finish(&mut chat(&path, &["--raw", "--max-tokens", "1"]));
        assert!(matches!(output.status.code(), Some(0 | 1)), "byte {at}: {err}");
        assert!(!err.contains("panicked") && err.lines().count() == 1, "byte {at}: {err}");
    }
}

#[test]
fn models_that_this_program_does_not_run_are_refused_with_what_it_runs() {
    let folder = Folder::new("chat-odd");
    let refused = |file: gguf_file::GgufFile, parts: &[&str]| {
        let path = folder.write("model.gguf", file.bytes());
        fails(&mut chat(&path, &["--raw"]), parts);
    };
    let odd = gguf_file::GgufFile::default().str("general.architecture", "mamba");
    refused(odd, &["model.gguf", "`mamba`", "llama, mistral, qwen2, qwen3"]);
    refused(gguf_file::GgufFile::default(), &["architecture"]);
    refused(LLAMA.metadata(), &["blk.0.attn_norm.weight", "it has 0 tensors"]);
    // An integer where a weight should be: ggml's code for i32 is 26.
    let zeros = [0u8; 24 * 24 * 4];
    let with_q = |dims: &[u64], code| {
        let bytes = &zeros[..4 * dims.iter().product::<u64>() as usize];
        let name = "blk.0.attn_q.weight";
        LLAMA.gguf(&FACTORS).without(name).tensor(name, dims, code, bytes)
    };
    refused(with_q(&[24, 24], 26), &["`layer.0.q.weight`", "[24, 24] i32", "floats"]);
    refused(with_q(&[24, 7], 0), &["`layer.0.q.weight`", "[7, 24] f32", "[24, 24] follows"]);
}

#[test]
fn folders_that_are_not_whole_say_what_is_missing() {
    let folder = Folder::new("chat-folder");
    QWEN3.write_folder(&folder);
    succeeds(&mut chat(folder.path(), &["--raw", "--max-tokens", "1"]));
    let refused = |parts: &[&str]| fails(&mut chat(folder.path(), &["--raw"]), parts);
    let config = QWEN3.config();
    folder.write("config.json", "{");
    refused(&["config.json", "not JSON"]);
    let mut odd = config.clone();
    odd["architectures"] = json!(["GPT2LMHeadModel"]);
    folder.write("config.json", odd.to_string());
    refused(&["`GPT2LMHeadModel`", "Qwen3ForCausalLM"]);
    let mut odd = config.clone();
    odd["num_key_value_heads"] = json!(3);
    folder.write("config.json", odd.to_string());
    refused(&["4 heads", "3 key/value heads"]);
    let mut odd = config.clone();
    odd["hidden_size"] = json!(1u64 << 40);
    folder.write("config.json", odd.to_string());
    refused(&["configuration"]);
    let mut odd = config.clone();
    let hadamard = json!({"type": "hadamard", "head_dim": 16, "apply": []});
    odd["quantization_config"] = json!({"transform_config": {"config_groups": {"v": hadamard}}});
    folder.write("config.json", odd.to_string());
    refused(&["`transform_config`"]);
    let apply = |location: &str, inverse: bool| {
        json!({"targets": ["Linear"], "ignore": ["lm_head"], "location": location,
               "inverse": inverse})
    };
    let mut rotation = json!({"type": "hadamard", "head_dim": 1u64 << 40, "randomize": false,
                              "apply": [apply("input", false), apply("weight_input", true)]});
    let mut refused_rotation = |head_dim: u64, parts: &[&str]| {
        rotation["head_dim"] = head_dim.into();
        odd["quantization_config"]["transform_config"]["config_groups"]["v"] = rotation.clone();
        folder.write("config.json", odd.to_string());
        refused(parts);
    };
    refused_rotation(1 << 40, &["blocks of 1099511627776", "up to 1024"]);
    refused_rotation(12, &["blocks of 12", "power of two"]);
    refused_rotation(16, &["rows of 24", "blocks of 16"]);
    folder.write("config.json", config.to_string());
    folder.write("tokenizer.json", "[]");
    refused(&["tokenizer.json"]);
    std::fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    refused(&["tokenizer.json"]);
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    refused(&["config.json", "beside the weights"]);
}

#[test]
fn a_model_without_a_chat_template_asks_for_raw() {
    let folder = Folder::new("chat-untempled");
    QWEN3.write_folder(&folder);
    std::fs::remove_file(folder.path().join("tokenizer_config.json")).unwrap();
    fails(&mut chat(folder.path(), &[]), &["no chat template", "--raw"]);
}

#[test]
fn a_context_that_does_not_fit_beside_the_weights_is_refused_and_told_which_does() {
    let folder = Folder::new("chat-budget");
    LLAMA.write_folder(&folder);
    let mut config = LLAMA.config();
    config["max_position_embeddings"] = json!(100_000);
    folder.write("config.json", config.to_string());
    let limited = ["--raw", "--memory-limit", "2", "--max-tokens"];
    let (output, _, err) = finish(&mut chat(folder.path(), &[&limited[..], &["99998"]].concat()));
    assert_eq!(output.status.code(), Some(1), "{err}");
    for part in ["keys and values of 100000 tokens", "beside the weights", "smaller --format"] {
        assert!(err.contains(part), "no {part:?} in {err}");
    }
    // 192 bytes a token: of 2 layers, keys and values of 2 heads of 6 floats.
    let words: Vec<&str> = err.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "would").unwrap();
    let fits: u64 = words[at - 2].parse().unwrap();
    assert!((9_000..=(2 << 20) / 192).contains(&fits), "{err}");
    succeeds(&mut chat(folder.path(), &[&limited[..], &["6"]].concat()));
}

#[test]
#[cfg(unix)]
fn an_interrupt_ends_the_answer_and_still_sums_it_up() {
    use std::io::Read;
    use std::process::Stdio;
    // A context that would take minutes to fill.
    let folder = Folder::new("chat-interrupt");
    LLAMA.write_folder(&folder);
    let mut config = LLAMA.config();
    config["max_position_embeddings"] = json!(100_000);
    folder.write("config.json", config.to_string());
    // No token ends an answer.
    let endless = vocabulary::tokenizer_json().replace("<|im_end|>", "<|im_start|>");
    folder.write("tokenizer.json", endless);
    let args = ["--raw", "--temperature", "0", "--max-tokens", "99999"];
    let mut command = chat(folder.path(), &args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0u8];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    let killed = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{err}");
    assert!(err.contains("tok/s") && err.lines().count() == 1, "{err}");
    assert_eq!(output.stdout.last(), Some(&b'\n'));
}

fn perplexity(model: &Path, text: &Path, more: &[&str]) -> Command {
    let mut command = example("perplexity");
    command.arg("--model").arg(model).arg("--text").arg(text).args(more);
    command
}

#[test]
fn folders_say_how_heads_turn_and_how_far_they_look_in_old_words_and_new() {
    let folder = Folder::new("chat-words");
    LLAMA.write_folder(&folder);
    let text = folder.write("text.txt", "All that is told here happened, more or less. ".repeat(4));
    let command = |config: &Value| {
        folder.write("config.json", config.to_string());
        let args = ["--json", "--formats", "f32", "--context", "16"];
        perplexity(folder.path(), &text, &args)
    };
    let of = |config: &Value| {
        let json: Value = serde_json::from_str(&succeeds(&mut command(config))).unwrap();
        json[0]["perplexity"].as_f64().unwrap()
    };
    let mut config = LLAMA.config();
    let usual = of(&config);
    config["rope_theta"] = json!(100.0);
    let expected = of(&config);
    assert_ne!(expected, usual);
    let mut together = config["rope_scaling"].take();
    together["rope_theta"] = config["rope_theta"].take();
    config["rope_parameters"] = together;
    assert_eq!(of(&config), expected);
    // What this program does not compute is refused, not left out.
    config["sliding_window"] = json!(8);
    assert_eq!(of(&config), expected, "Llamas have none");
    config["architectures"] = json!(["MistralForCausalLM"]);
    fails(&mut command(&config), &["--context 16", "context is 8"]);
    config["rope_parameters"]["partial_rotary_factor"] = json!(0.5);
    fails(&mut command(&config), &["part of each head (0.5)"]);
    config["hidden_act"] = json!("gelu");
    fails(&mut command(&config), &["`gelu`", "silu"]);
}

#[test]
fn perplexity_is_a_table_or_json_of_formats() {
    let (folder, path) = model("perplexity");
    let text = folder.write("text.txt", "All that is told here happened, more or less. ".repeat(4));
    let other = folder.write("other.txt", "Listen: Billy has come unstuck in time. ".repeat(4));
    let formats = "f32,bf16,nvfp4/mse,nvfp4/gptq,mxfp4/gptq_ocp";
    let args = ["--context", "32", "--windows", "2", "--formats", formats, "--calibrate"];
    let args = [&args[..], &[other.to_str().unwrap()]].concat();
    let (output, table, err) = finish(&mut perplexity(&path, &text, &args));
    assert!(output.status.success(), "{err}");
    assert_eq!(
        err,
        "2 windows of 32 tokens, without BOS, as the model has none, the last 16 of each scored\n"
    );
    let rows: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["format", "bytes", "seconds", "perplexity"]);
    let names: Vec<_> = rows[1..].iter().map(|row| row[0]).collect();
    assert_eq!(names, ["f32", "bf16", "nvfp4/mse", "nvfp4/gptq_mse", "mxfp4/gptq_ocp"]);
    assert_eq!(rows[3][1], rows[4][1], "error feedback changes no format");
    let json = succeeds(perplexity(&path, &text, &args).arg("--json"));
    let json: Value = serde_json::from_str(&json).unwrap();
    for (row, object) in rows[1..].iter().zip(json.as_array().unwrap()) {
        assert_eq!(row[0], object["format"]);
        assert_eq!(row[1], object["bytes"].to_string());
        let exact = object["perplexity"].as_f64().unwrap();
        assert!((row[3].parse::<f64>().unwrap() - exact).abs() < 1e-4, "{row:?} {object}");
        // Random weights know nothing: not far from one in 266.
        assert!((30.0..3000.0).contains(&exact), "{exact}");
    }
    let of = |i: usize| json[i]["perplexity"].as_f64().unwrap();
    assert!((of(1) / of(0) - 1.0).abs() < 0.02, "bf16 is close to f32: {json}");
    assert!(of(2) != of(3), "other codes: {json}");
}

/// A model with rows of FP8, quantised for a text, in a folder of the quantiser's name.
fn calibrated(source: &Path, folder: &Folder, quantizer: &str, calibrate: &[&str]) -> PathBuf {
    let output = folder.path().join(quantizer);
    let mut quantize = example("quantize");
    quantize.args([source, &output]).args(["--format", "fp8row"]);
    quantize.args(["--quantizer", quantizer, "--naming", "compressed-tensors"]);
    let table = succeeds(quantize.args(calibrate));
    assert!(table.lines().filter(|line| line.contains("fp8row")).count() == 14, "{table}");
    output
}

#[test]
fn a_model_written_with_error_feedback_is_the_one_in_memory() {
    let (folder, source) = (Folder::new("chat-calibrated"), Folder::new("chat-calibrated-source"));
    let text = folder.write("text.txt", "All that is told here happened, more or less. ".repeat(4));
    let other = folder.write("other.txt", "Listen: Billy has come unstuck in time. ".repeat(4));
    let calibrate = ["--context", "32", "--calibrate", other.to_str().unwrap()];
    let of = |model: &Path, format: &str| -> f64 {
        let mut command = perplexity(model, &text, &["--json", "--formats", format]);
        let json = succeeds(command.args(calibrate));
        serde_json::from_str::<Value>(&json).unwrap()[0]["perplexity"].as_f64().unwrap()
    };
    let write = |quantizer: &str| calibrated(source.path(), &folder, quantizer, &calibrate);
    let transforms = |model: &Path| {
        let config = std::fs::read(model.join("config.json")).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        config["quantization_config"]["transform_config"]["config_groups"].clone()
    };

    // Heads of 8 hold whole blocks of 4: values are rotated by their weights, and o's inputs so.
    QWEN3.write_folder(&source);
    let by_values = write("rotated_gptq");
    assert_eq!(transforms(&by_values)["rotation"]["apply"][2]["targets"], json!(["re:.*v_proj$"]));
    let perplexity = of(&by_values, "keep");
    assert_eq!(perplexity, of(source.path(), "fp8row/rotated_gptq"));
    assert!((perplexity / of(source.path(), "f32") - 1.0).abs() < 0.02, "{perplexity}");
    std::fs::remove_dir_all(&by_values).unwrap();

    LLAMA.write_folder(&source);
    let output = write("gptq");
    assert_eq!(of(&output, "keep"), of(source.path(), "fp8row/gptq"));
    assert_ne!(of(&output, "keep"), of(source.path(), "fp8row/mse"));

    // Inputs of 24 and 20 are rotated in blocks of 4, which the configuration says.
    let rotated = write("rotated_gptq");
    assert_eq!(transforms(&rotated)["rotation"]["apply"].as_array().map(Vec::len), Some(2));
    assert_eq!(transforms(&rotated)["rotation"]["head_dim"], 4);
    let perplexity = of(&rotated, "keep");
    assert_eq!(perplexity, of(source.path(), "fp8row/rotated_gptq"));
    assert_ne!(perplexity, of(&output, "keep"));
    assert!((perplexity / of(source.path(), "f32") - 1.0).abs() < 0.02, "{perplexity}");
    let elements = folder.path().join("elements");
    succeeds(example("quantize").args([&rotated, &elements]).args(["--format", "f32"]));
    assert_eq!(transforms(&elements), transforms(&rotated));
    assert!((of(&elements, "keep") / perplexity - 1.0).abs() < 1e-3, "{perplexity}");
    let mut file = example("quantize");
    file.args([source.path(), &folder.path().join("a.safetensors")]).args(calibrate);
    fails(file.args(["--quantizer", "rotated_gptq"]), &["rotated_gptq", "folders"]);
    // What is read beside weights is not lost on the way to a file, nor from one.
    for (from, to) in [(rotated.clone(), "b.safetensors"), (rotated.join("model.safetensors"), "b")]
    {
        let mut quantize = example("quantize");
        quantize.args([&from, &folder.path().join(to)]).args(["--format", "f32"]);
        fails(&mut quantize, &["`transform_config`", "folders"]);
    }
}

#[test]
fn perplexity_of_what_can_not_be_read_is_one_line() {
    let (folder, path) = model("perplexity-bad");
    let text = folder.write("text.txt", "short");
    let wrong = |text: &Path, args: &[&str], parts: &[&str]| {
        fails(&mut perplexity(&path, text, args), parts);
    };
    wrong(&text, &["--context", "32"], &["text.txt", "less than one window of 32"]);
    wrong(&text, &["--context", "1000"], &["--context 1000", "context is 64"]);
    wrong(&text, &["--context", "2"], &["--context 2", "at least 4"]);
    wrong(&text, &["--formats", "f32,q4"], &["`q4`", "nvfp4"]);
    wrong(&text, &["--formats", "bf16/mse"], &["bf16 is not quantised"]);
    wrong(&text, &["--formats", "bf16/gptq"], &["bf16 is not quantised"]);
    wrong(&text, &["--formats", "fp8block128/gptq"], &["fp8block128", "span rows"]);
    wrong(&text, &["--calibrate", text.to_str().unwrap()], &["--calibrate", "to predict"]);
    let long = folder.write("long.txt", "All that is told here happened. ".repeat(4));
    let args = ["--context", "32", "--formats", "nvfp4/gptq"];
    wrong(&long, &args, &["nvfp4/gptq_mse", "--calibrate TEXT"]);
    wrong(&folder.path().join("none.txt"), &["--context", "32"], &["none.txt", "No such file"]);
    let binary = folder.write("binary", [0xFFu8, 0xFE, 0x00]);
    wrong(&binary, &["--context", "32"], &["binary", "UTF-8"]);
    fails(&mut perplexity(&text, &text, &[]), &["text.txt"]);
}
