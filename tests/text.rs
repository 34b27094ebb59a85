//! Text in and out of language models: tokens, streaming, chat templates, sampling.
#![cfg(all(feature = "cpu", feature = "gguf", feature = "safetensors"))]
#![allow(missing_docs)]

#[path = "../examples/common/mod.rs"]
mod common;
#[path = "common/folder.rs"]
mod folder;
#[path = "common/gguf_file.rs"]
mod gguf_file;
#[path = "common/vocabulary.rs"]
mod vocabulary;

use common::detokenizer::Detokenizer;
use common::sampling::{Sampler, Sampling, greedy};
use common::template::{ChatTemplate, Message, strftime};
use common::tokenizer::TextTokenizer;
use ferrocerium::Device;
use ferrocerium::io::Weights;
use folder::Folder;
use gguf_file::GgufFile;
use serde_json::json;
use vocabulary::byte_pairs;

fn of_gguf(name: &str, file: &GgufFile) -> anyhow::Result<TextTokenizer> {
    let folder = Folder::new(name);
    let path = folder.write("model.gguf", file.bytes());
    TextTokenizer::of(&Weights::open(&Device::cpu(), path).unwrap())
}

fn pieces(tokenizer: &TextTokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, false).unwrap();
    ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect()
}

#[test]
fn byte_pairs_are_merged_within_the_words_of_the_pre_tokenizer() {
    let of = |pre: &str| of_gguf(&format!("bpe-{pre}"), &byte_pairs(pre)).unwrap();
    let text = "hello 1234's";
    let of_gpt2 = ["hell", "o", "Ġ", "123", "4", "'s"];
    assert_eq!(pieces(&of("gpt-2"), text), of_gpt2);
    // By threes at most, and a space is no part of a number.
    assert_eq!(pieces(&of("llama-bpe"), text), of_gpt2);
    assert_eq!(pieces(&of("llama-bpe"), "41234"), ["4", "12", "3", "4"]);
    for pre in ["smollm", "qwen2"] {
        assert_eq!(pieces(&of(pre), text), ["hell", "o", "Ġ", "1", "2", "3", "4", "'s"]);
    }
}

#[test]
fn special_tokens_in_a_text_are_recognised() {
    let tokenizer = of_gguf("special", &byte_pairs("gpt-2")).unwrap();
    assert_eq!(pieces(&tokenizer, "he<tool>he<|im_end|>"), ["he", "<tool>", "he", "<|im_end|>"]);
    let ids = tokenizer.encode("he<tool>he<|im_end|>", false).unwrap();
    assert_eq!(tokenizer.decode(&ids).unwrap(), "he<tool>he", "control tokens have no text");
    assert!(tokenizer.is_end(264) && !tokenizer.is_end(263) && !tokenizer.is_end(265));
}

#[test]
fn the_beginning_is_marked_once_where_the_model_wants_it() {
    let llama = of_gguf("bos-llama", &byte_pairs("llama-bpe")).unwrap();
    assert_eq!(llama.begin(), Some(263));
    assert_eq!(llama.encode("he", true).unwrap(), [263, 256]);
    assert_eq!(llama.encode("<s>he", true).unwrap(), [263, 256]);
    assert_eq!(llama.encode("he", false).unwrap(), [256]);
    let told = byte_pairs("llama-bpe").bool("tokenizer.ggml.add_bos_token", false);
    assert_eq!(of_gguf("bos-told", &told).unwrap().encode("he", true).unwrap(), [256]);
    let gpt2 = of_gguf("bos-gpt2", &byte_pairs("gpt-2")).unwrap();
    assert_eq!(gpt2.encode("he", true).unwrap(), [256]);
}

#[test]
fn streaming_never_splits_a_character() {
    let tokenizer = of_gguf("stream", &byte_pairs("gpt-2")).unwrap();
    let text = "hé 日本 👍🏽 \u{10FFFF}!";
    let mut stream = Detokenizer::new(&tokenizer, &[]);
    let mut out = Vec::new();
    for id in tokenizer.encode(text, false).unwrap() {
        out.push(stream.push(id).unwrap());
    }
    assert!(out.iter().all(|piece| !piece.contains('\u{FFFD}')), "{out:?}");
    assert!(out.contains(&"日".to_owned()) && out.contains(&"👍".to_owned()), "{out:?}");
    assert_eq!(out.concat() + &stream.finish().unwrap(), text);
}

#[test]
fn broken_utf8_comes_out_as_replacement_characters_and_what_follows_is_whole() {
    let tokenizer = of_gguf("broken", &byte_pairs("gpt-2")).unwrap();
    // 0xE6 begins a character of three bytes.
    let first = tokenizer.encode("日", false).unwrap()[0];
    let mut stream = Detokenizer::new(&tokenizer, &[]);
    assert_eq!(stream.push(first).unwrap(), "");
    assert_eq!(stream.push(256).unwrap(), "\u{FFFD}he");
    assert_eq!(stream.push(first).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{FFFD}");
    let mut stream = Detokenizer::new(&tokenizer, &[]);
    let out: String = (0..6).map(|_| stream.push(first).unwrap()).collect();
    assert!(!out.is_empty(), "an endless run of broken tokens is not held back for ever");
}

#[test]
fn sentence_pieces_become_the_tokens_that_sentencepiece_makes_of_them() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentencepiece.gguf");
    let tokenizer = TextTokenizer::of(&Weights::open(&Device::cpu(), path).unwrap()).unwrap();
    let golden: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("golden/sentencepiece.json")).unwrap();
    for case in &golden {
        let text = case["text"].as_str().unwrap();
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(json!(ids), case["ids"], "{text:?}");
        let text = text.replace('\u{2581}', " ");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        let mut stream = Detokenizer::new(&tokenizer, &[]);
        let mut joined = String::new();
        for id in &ids {
            joined += &stream.push(*id).unwrap();
        }
        assert_eq!(joined + &stream.finish().unwrap(), text);
    }
    assert_eq!(tokenizer.encode("a", true).unwrap()[0], 1);
}

#[test]
fn a_stream_after_a_prompt_keeps_the_space_of_its_first_word() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentencepiece.gguf");
    let tokenizer = TextTokenizer::of(&Weights::open(&Device::cpu(), path).unwrap()).unwrap();
    let prompt = tokenizer.encode("the work", true).unwrap();
    let all = tokenizer.encode("the work of", true).unwrap();
    let mut stream = Detokenizer::new(&tokenizer, &prompt);
    let out: String = all[prompt.len()..].iter().map(|id| stream.push(*id).unwrap()).collect();
    assert_eq!(out, " of");
}

#[test]
fn vocabularies_that_are_not_sound_are_errors_that_say_what_is_wrong() {
    let message = |name: &str, file: &GgufFile| match of_gguf(name, file) {
        Ok(_) => panic!("accepted"),
        Err(e) => format!("{e:#}"),
    };
    let none = message("no-vocabulary", &GgufFile::default());
    assert!(none.contains("tokenizer.ggml.tokens"), "{none}");
    let pre = message("odd-pre", &byte_pairs("bloom"));
    assert!(pre.contains("bloom") && pre.contains("smollm"), "{pre}");
    let model = GgufFile::default()
        .str("tokenizer.ggml.model", "rwkv")
        .strs("tokenizer.ggml.tokens", &["a"]);
    assert!(message("odd-model", &model).contains("rwkv"));
    let eos = byte_pairs("gpt-2").u32("tokenizer.ggml.eos_token_id", 10_000);
    assert!(message("far-eos", &eos).contains("10000"));
    let spm = GgufFile::default()
        .str("tokenizer.ggml.model", "llama")
        .strs("tokenizer.ggml.tokens", &["a", "b"])
        .array("tokenizer.ggml.scores", gguf_file::F32, &[vec![0; 4]]);
    assert!(message("few-scores", &spm).contains("2 tokens but 1 scores"));
    let merge = GgufFile::default()
        .str("tokenizer.ggml.model", "gpt2")
        .strs("tokenizer.ggml.tokens", &["a", "b"])
        .strs("tokenizer.ggml.merges", &["ab"]);
    assert!(message("odd-merge", &merge).contains("\"ab\""));
    let unknown = GgufFile::default()
        .str("tokenizer.ggml.model", "gpt2")
        .strs("tokenizer.ggml.tokens", &["a", "b"])
        .strs("tokenizer.ggml.merges", &["a c"]);
    message("unknown-merge", &unknown);
}

#[test]
fn a_folder_brings_its_tokenizer() {
    let folder = Folder::new("tokenizer-folder");
    folder.write("model.safetensors", [&2u64.to_le_bytes()[..], b"{}"].concat());
    let weights = Weights::open(&Device::cpu(), folder.path()).unwrap();
    let missing = TextTokenizer::of(&weights).err().unwrap();
    assert!(format!("{missing:#}").contains("tokenizer.json"), "{missing:#}");

    let added = |id: u32, content: &str| {
        json!({
            "id": id, "content": content, "special": true, "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false
        })
    };
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [added(3, "<s>"), added(4, "</s>"), added(5, "<|eot_id|>")],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}
            ],
            "pair": [
                {"Sequence": {"id": "A", "type_id": 0}},
                {"Sequence": {"id": "B", "type_id": 1}}
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [3], "tokens": ["<s>"]}}
        }
    });
    folder.write("tokenizer.json", tokenizer.to_string());
    let config = json!({
        "bos_token": {"content": "<s>"}, "eos_token": "</s>",
        "chat_template": [{"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}]
    });
    folder.write("tokenizer_config.json", config.to_string());
    folder.write("generation_config.json", r#"{"eos_token_id": [4, 1]}"#);
    let text = TextTokenizer::of(&weights).unwrap();
    assert_eq!(text.encode("abb", true).unwrap(), [3, 2, 1]);
    assert_eq!(text.encode("abb", false).unwrap(), [2, 1]);
    assert_eq!((0..6).filter(|&id| text.is_end(id)).collect::<Vec<_>>(), [1, 4, 5]);
    let template = text.chat_template().unwrap().unwrap();
    assert_eq!(template.render(&[Message::new("user", "ab")]).unwrap(), "<s>ab");

    folder.write("tokenizer.json", "{}");
    assert!(TextTokenizer::of(&weights).is_err());
}

fn render(template: &str) -> anyhow::Result<String> {
    let messages = [Message::new("system", " Be <brief>. "), Message::new("user", "\"Hi\"\n")];
    ChatTemplate::new(template, "<s>", "</s>")?.render(&messages)
}

#[test]
fn templates_run_as_transformers_runs_them() {
    let cases = [
        ("{{ bos_token }}{{ eos_token }}", "<s></s>"),
        (
            "{% for m in messages %}\n{{ m['role'] }}{{ m.content.strip() }};\n{% endfor %}",
            "systemBe <brief>.;\nuser\"Hi\";\n",
        ),
        ("{{ messages[0] | tojson }}", r#"{"role": "system", "content": " Be <brief>. "}"#),
        ("{{ [1, 'é'] | tojson(indent=2) }}", "[\n  1,\n  \"é\"\n]"),
        ("{% if add_generation_prompt %}go{% endif %}", "go"),
        ("{% if tools is defined and tools %}x{% else %}y{% endif %}", "y"),
        (
            "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}",
            "user",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "2",
        ),
        ("{{ messages[1].content.startswith('\"') }}{{ messages[-1].role.upper() }}", "TrueUSER"),
        ("    {%- if true %}\n    a\n    {%- endif %}", "    a"),
    ];
    for (template, expected) in cases {
        assert_eq!(render(template).unwrap(), expected, "{template}");
    }
    assert!(render("{{ strftime_now('%Y') }}").unwrap().starts_with("20"));
}

#[test]
fn templates_that_fail_are_errors_with_their_own_words() {
    let e = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(format!("{e:#}").contains("roles must alternate"), "{e:#}");
    let e = render("{% for %}").unwrap_err();
    assert!(format!("{e:#}").contains("not understood"), "{e:#}");
}

#[test]
fn dates_are_those_of_the_calendar() {
    let all = "%Y-%m-%d %H:%M:%S %A %a %d %B %b %y %% %q";
    assert_eq!(strftime(all, 0), "1970-01-01 00:00:00 Thursday Thu 01 January Jan 70 % %q");
    // 29 February of a leap year that ends a century.
    let expected = "2000-02-29 23:59:59 Tuesday Tue 29 February Feb 00 % %q";
    assert_eq!(strftime(all, 951_868_799), expected);
    assert_eq!(strftime("%d %b %Y%", 1_735_689_600), "01 Jan 2025%");
}

fn sampler(temperature: f32, top_k: usize, top_p: f32, seed: u64) -> Sampler {
    Sampler::new(Sampling { temperature, top_k, top_p, seed }).unwrap()
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    assert_eq!(greedy(&[0.0, 3.0, -1.0, 3.0]).unwrap(), 1);
    assert_eq!(greedy(&[f32::NEG_INFINITY, -5.0]).unwrap(), 1);
    assert_eq!(sampler(0.0, 0, 1.0, 7).sample(&[0.0, 3.0, -1.0, 3.0]).unwrap(), 1);
}

#[test]
fn logits_that_are_not_numbers_are_errors() {
    for bad in [f32::NAN, f32::INFINITY] {
        let e = sampler(1.0, 0, 1.0, 0).sample(&[0.0, bad]).unwrap_err();
        assert!(e.to_string().contains("token 1"), "{e}");
    }
    assert!(greedy(&[f32::NAN]).is_err());
    assert!(greedy(&[]).is_err());
    assert!(greedy(&[f32::NEG_INFINITY; 3]).is_err());
}

#[test]
fn parameters_out_of_range_are_errors() {
    let bad = |temperature, top_p| {
        Sampler::new(Sampling { temperature, top_k: 0, top_p, seed: 0 }).unwrap_err();
    };
    for temperature in [-1.0, f32::NAN, f32::INFINITY] {
        bad(temperature, 1.0);
    }
    for top_p in [0.0, -0.5, 1.5, f32::NAN] {
        bad(1.0, top_p);
    }
}

#[test]
fn the_same_seed_makes_the_same_choices() {
    let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
    let draw = |seed| {
        let mut s = sampler(1.0, 0, 1.0, seed);
        (0..50).map(|_| s.sample(&logits).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[test]
fn choices_follow_the_softmax_at_the_temperature() {
    const DRAWS: usize = 200_000;
    let logits = [1.0f32, 0.0, 2.0, -1.0];
    for temperature in [0.5, 1.0, 2.0] {
        let weights = logits.map(|x| (f64::from(x) / f64::from(temperature)).exp());
        let total: f64 = weights.iter().sum();
        let mut s = sampler(temperature, 0, 1.0, 42);
        let mut counts = [0usize; 4];
        for _ in 0..DRAWS {
            counts[s.sample(&logits).unwrap() as usize] += 1;
        }
        for (count, weight) in counts.iter().zip(weights) {
            let p = weight / total;
            // Five standard deviations of a binomial count.
            let bound = 5.0 * (p * (1.0 - p) / DRAWS as f64).sqrt();
            let share = *count as f64 / DRAWS as f64;
            assert!((share - p).abs() <= bound, "{share} for {p}, at most {bound} off");
        }
    }
}

#[test]
fn top_k_and_top_p_leave_out_the_unlikely() {
    let logits = [0.0f32, 1.0, 1.0, 4.0, 3.9];
    let drawn = |top_k, top_p| {
        let mut s = sampler(1.0, top_k, top_p, 3);
        let mut seen: Vec<u32> = (0..2000).map(|_| s.sample(&logits).unwrap()).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    };
    assert_eq!(drawn(1, 1.0), [3]);
    assert_eq!(drawn(2, 1.0), [3, 4]);
    // Of equals the first.
    assert_eq!(drawn(3, 1.0), [1, 3, 4]);
    assert_eq!(drawn(0, 1.0), [0, 1, 2, 3, 4]);
    assert_eq!(drawn(100, 1.0), [0, 1, 2, 3, 4]);
    // The likeliest has half of it, the first two more than nine tenths.
    assert_eq!(drawn(0, 0.4), [3]);
    assert_eq!(drawn(0, 0.9), [3, 4]);
    assert_eq!(drawn(0, 1e-9), [3]);
}

#[test]
fn extreme_logits_are_sampled_without_overflow() {
    let mut s = sampler(1e-30, 0, 1.0, 0);
    assert_eq!(s.sample(&[f32::MAX, f32::MIN, 0.0]).unwrap(), 0);
    let mut s = sampler(1.0, 0, 1.0, 0);
    assert_eq!(s.sample(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]).unwrap(), 1);
}
