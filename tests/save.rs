//! Saving: what is read back is what was saved, and whatever happens on the way, under the file's
//! name there is the old one or the whole new one.
#![cfg(all(feature = "safetensors", feature = "cpu"))]

#[path = "common/folder.rs"]
#[allow(dead_code)]
mod folder;
#[path = "common/ops.rs"]
mod ops;

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ferrocerium::format::{Format, Quantizer, ScaleLayout};
use ferrocerium::io::safetensors::{Contents, Naming, Writer, save};
use ferrocerium::io::{Loader, Target};
use ferrocerium::{AnyTensor, DType, Device, Error, Tensor, bf16};
use folder::Folder;
use ops::{numbers, says, tensor};

const NAMINGS: [Naming; 4] =
    [Naming::ModelOpt, Naming::CompressedTensors, Naming::GptOss, Naming::DeepSeek];

fn device() -> Device {
    Device::builder().threads(2).cpu().unwrap()
}

fn raw(any: &AnyTensor) -> Vec<Vec<u8>> {
    any.operand().regions().map(|r| r.buffer().read().unwrap()[r.range()].to_vec()).collect()
}

fn load(path: &Path) -> HashMap<String, AnyTensor> {
    let plan = Loader::open(&device(), path).unwrap().in_place(false).plan(|_| Target::Keep);
    let loaded = plan.unwrap().load(|_| ControlFlow::Continue(())).unwrap();
    loaded.iter().map(|(name, any)| (name.to_owned(), any.clone())).collect()
}

fn quantized(format: Format, shape: &[usize]) -> AnyTensor {
    let device = device();
    let values = numbers(shape.iter().product(), shape.len() as u64);
    let quantizer = Quantizer::default_for(format);
    match *shape {
        [m, k] => AnyTensor::from(Tensor::from_host(&device, [m, k], &values).unwrap()),
        [b, m, k] => AnyTensor::from(Tensor::from_host(&device, [b, m, k], &values).unwrap()),
        _ => panic!("{shape:?}"),
    }
    .quantize(format, quantizer)
    .unwrap()
}

#[test]
fn every_format_comes_back_from_every_naming_that_has_names_for_it() {
    let folder = Folder::new("save-formats");
    let path = folder.path().join("model.safetensors");
    let mut saved = 0;
    for format in Format::ALL {
        for naming in NAMINGS {
            for shape in [&[130usize, 256][..], &[3, 40, 256]] {
                let any = quantized(format, shape);
                match save(&path, [("x.weight", &any)], naming) {
                    Ok(()) => {}
                    Err(error) => {
                        says(&error.to_string(), &["x.weight", &format.to_string()]);
                        continue;
                    }
                }
                saved += 1;
                let found = &load(&path)["x.weight"];
                assert_eq!(found.to_string(), any.to_string(), "{naming:?}");
                let (mut found, mut expected) = (raw(found), raw(&any));
                if format == Format::Nvfp4 && naming == Naming::CompressedTensors {
                    let value = |bytes: Option<Vec<u8>>| {
                        f32::from_ne_bytes(bytes.unwrap().try_into().unwrap())
                    };
                    let (found, expected) = (value(found.pop()), value(expected.pop()));
                    assert!((found / expected - 1.0).abs() <= f32::EPSILON, "{found} {expected}");
                }
                assert!(found == expected, "{format} {naming:?} {shape:?}");
            }
        }
    }
    // 9 formats under ModelOpt's and compressed-tensors' names, MXFP4 under gpt-oss', FP8 block
    // 128 under DeepSeek's, in two shapes; but several matrices with one scale each have no names.
    assert_eq!(saved, (9 + 9 + 1 + 1) * 2 - 4);
}

#[test]
fn every_element_type_comes_back_in_place() {
    let device = device();
    let folder = Folder::new("save-elements");
    let path = folder.path().join("model.safetensors");
    let values = AnyTensor::from(tensor::<f32, 2>(&device, [5, 3], 1));
    let types = [DType::F64, DType::F32, DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2];
    let mut tensors: Vec<(String, AnyTensor)> =
        types.iter().map(|t| (t.to_string(), values.cast(*t).unwrap())).collect();
    let ints = Tensor::from_host(&device, [2], &[-1i64, i64::MAX]).unwrap();
    tensors.push(("i64".to_owned(), ints.into()));
    tensors.push(("empty".to_owned(), Tensor::<u8, 2>::zeros(&device, [0, 7]).unwrap().into()));
    tensors.push(("scalar".to_owned(), Tensor::from_host(&device, [], &[3u16]).unwrap().into()));
    save(&path, tensors.iter().map(|(n, t)| (n.as_str(), t)), Naming::ModelOpt).unwrap();
    let weights = ferrocerium::io::Weights::open(&device, &path).unwrap();
    for (name, any) in &tensors {
        // `any` refuses what is misaligned in the file.
        let found = weights.any(name).unwrap();
        assert_eq!((found.to_string(), raw(&found)), (any.to_string(), raw(any)), "{name}");
    }
    // The format's own library agrees that the file is sound.
    let bytes = std::fs::read(&path).unwrap();
    let theirs = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(theirs.tensor("BF16".to_lowercase().as_str()).unwrap().shape(), [5, 3]);
    assert_eq!(theirs.len(), tensors.len());
}

#[test]
fn names_and_shapes_are_those_of_the_tools() {
    let folder = Folder::new("save-names");
    let path = folder.path().join("m.safetensors");
    let nvfp4 = quantized(Format::Nvfp4, &[8, 64]);
    let entries = |naming| {
        save(&path, [("x.weight", &nvfp4)], naming).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut found: Vec<String> = file
            .tensors()
            .into_iter()
            .map(|(name, t)| format!("{name} {:?} {:?}", t.dtype(), t.shape()))
            .collect();
        found.sort();
        found
    };
    assert_eq!(
        entries(Naming::ModelOpt),
        ["x.weight U8 [8, 32]", "x.weight_scale F8_E4M3 [8, 4]", "x.weight_scale_2 F32 []"]
    );
    assert_eq!(
        entries(Naming::CompressedTensors),
        [
            "x.weight_global_scale F32 [1]",
            "x.weight_packed U8 [8, 32]",
            "x.weight_scale F8_E4M3 [8, 4]"
        ]
    );
}

#[test]
fn tiled_scales_are_saved_row_major() {
    let device = device();
    let folder = Folder::new("save-tiled");
    let path = folder.path().join("m.safetensors");
    let x =
        tensor::<f32, 2>(&device, [130, 80], 1).quantize::<ferrocerium::format::Nvfp4>().unwrap();
    let tiled = x.with_scale_layout(ScaleLayout::Tiled128x4).unwrap();
    save(&path, [("x", &tiled.into())], Naming::ModelOpt).unwrap();
    assert_eq!(raw(&load(&path)["x"]), raw(&x.into()));
}

#[test]
fn what_can_not_be_saved_is_an_error_that_names_it_and_leaves_no_file() {
    let device = device();
    let folder = Folder::new("save-refused");
    let path = folder.path().join("m.safetensors");
    let refused = |any: &AnyTensor, parts: &[&str]| {
        let error = save(&path, [("x.weight", any)], Naming::ModelOpt).unwrap_err();
        says(&error.to_string(), &[&["save", "x.weight"], parts].concat());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    };
    refused(&quantized(Format::Nvfp4, &[4, 40]), &["[4, 40]", "multiple of 16"]);
    refused(&quantized(Format::Nvfp4, &[4, 32]).t().unwrap(), &["transposed"]);
    refused(&AnyTensor::from(tensor::<f32, 2>(&device, [2, 3], 1)).t().unwrap(), &["contiguous"]);

    let x: AnyTensor = tensor::<f32, 1>(&device, [4], 1).into();
    let mut contents = Contents::new();
    contents.elements("x", DType::F32, &[4]).unwrap();
    says(&contents.elements("x", DType::F32, &[4]).unwrap_err().to_string(), &["already"]);
    for name in ["", "a\0b", "__metadata__"] {
        assert!(matches!(contents.elements(name, DType::F32, &[4]), Err(Error::Value { .. })));
    }
    let huge = contents.elements("h", DType::F32, &[usize::MAX, 2]).unwrap_err();
    assert!(matches!(huge, Error::Shape { .. }));
    contents.elements("y", DType::BF16, &[4]).unwrap();
    let mut writer = Writer::create(&path, contents).unwrap();
    says(&writer.write("z", &x).unwrap_err().to_string(), &["\"z\"", "not in the contents"]);
    says(&writer.write("y", &x).unwrap_err().to_string(), &["[4] f32", "[4] bf16"]);
    writer.write("x", &x).unwrap();
    says(&writer.finish().unwrap_err().to_string(), &["\"y\" was not written"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(matches!(save("/", [("x", &x)], Naming::ModelOpt), Err(Error::File { .. })));
    let nowhere = folder.path().join("none/m.safetensors");
    assert!(matches!(save(nowhere, [("x", &x)], Naming::ModelOpt), Err(Error::Io { .. })));
}

#[test]
fn a_second_writer_of_a_file_is_refused() {
    let folder = Folder::new("save-lock");
    let path = folder.path().join("m.safetensors");
    let first = Writer::create(&path, Contents::new()).unwrap();
    let second = Writer::create(&path, Contents::new()).unwrap_err().to_string();
    says(&second, &["m.safetensors", "another process is writing it"]);
    drop(first);
    Writer::create(&path, Contents::new()).unwrap().finish().unwrap();
    assert!(load(&path).is_empty());
}

/// What the child processes below write: weights whose values follow from their index.
const WEIGHTS: usize = 40;

fn contents() -> Contents {
    let mut contents = Contents::new();
    contents.metadata("format", "pt");
    for i in 0..WEIGHTS {
        contents.scaled(&format!("w{i}"), Format::Nvfp4, &[16, 64], Naming::ModelOpt).unwrap();
        contents.elements(&format!("n{i}"), DType::BF16, &[300]).unwrap();
    }
    contents
}

fn weight(device: &Device, i: usize) -> [(String, AnyTensor); 2] {
    let w = tensor::<f32, 2>(device, [16, 64], i as u64);
    let n = tensor::<bf16, 1>(device, [300], 1000 + i as u64);
    let w = AnyTensor::from(w).quantize(Format::Nvfp4, Quantizer::Amax).unwrap();
    [(format!("w{i}"), w), (format!("n{i}"), n.into())]
}

/// Not a test: the process that the tests below kill. It prints how many weights it wrote.
#[test]
#[ignore = "run by other tests, as a process of its own"]
fn child_writes() {
    let Ok(path) = std::env::var("FERROCERIUM_SAVE_TO") else { return };
    let device = Device::reference();
    let mut writer = Writer::resume(path, contents(), "key").unwrap();
    let mut wrote = 0;
    for (name, any) in (0..WEIGHTS).flat_map(|i| weight(&device, i)) {
        if !writer.is_done(&name) {
            writer.write(&name, &any).unwrap();
            writer.sync().unwrap();
            wrote += 1;
        }
    }
    writer.finish().unwrap();
    println!("wrote {wrote}");
}

fn child(path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child_writes", "--ignored", "--nocapture"]);
    command.env("FERROCERIUM_SAVE_TO", path).stdout(Stdio::piped()).stderr(Stdio::null());
    command
}

#[test]
fn killed_at_any_point_there_is_the_old_file_or_the_new_and_work_goes_on_where_it_was() {
    let folder = Folder::new("save-kill");
    let path = folder.path().join("m.safetensors");
    let old: AnyTensor = tensor::<f32, 1>(&device(), [4], 1).into();
    save(&path, [("old", &old)], Naming::ModelOpt).unwrap();
    let seed = std::process::id() as u64;
    println!("seed {seed}");
    let (mut kills, mut wait) = (0u64, seed);
    // Each process has a random time to live, and in the end as long as it takes.
    let wrote = loop {
        let mut process = child(&path).spawn().unwrap();
        wait = wait.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        if kills < 25 {
            std::thread::sleep(Duration::from_micros((wait >> 33) % 15_000));
            // SIGKILL: the process has no say.
            process.kill().unwrap();
        }
        let output = process.wait_with_output().unwrap();
        let found = load(&path);
        let is_old = found.len() == 1 && raw(&found["old"]) == raw(&old);
        if output.status.success() {
            break String::from_utf8(output.stdout).unwrap();
        }
        kills += 1;
        assert!(kills < 60, "it never ends");
        assert!(is_old || found.len() == 2 * WEIGHTS, "neither old nor new: {}", found.len());
    };
    let found = load(&path);
    assert_eq!(found.len(), 2 * WEIGHTS);
    let device = Device::reference();
    for (name, any) in (0..WEIGHTS).flat_map(|i| weight(&device, i)) {
        assert!(raw(&found[&name]) == raw(&any), "{name} after {kills} kills, seed {seed}");
    }
    println!("{kills} kills; the last process {wrote}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something is left over");
}

#[test]
fn work_is_taken_up_only_for_the_same_key_and_contents_and_as_far_as_notes_are_whole() {
    let device = Device::reference();
    let folder = Folder::new("save-resume");
    let path = folder.path().join("m.safetensors");
    let begin = |key: &str| {
        let mut writer = Writer::resume(&path, contents(), key).unwrap();
        for (name, any) in (0..3).flat_map(|i| weight(&device, i)) {
            writer.write(&name, &any).unwrap();
        }
        writer.sync().unwrap();
    };
    let done = |contents: Contents, key: &str| {
        let writer = Writer::resume(&path, contents, key).unwrap();
        (0..WEIGHTS).filter(|i| writer.is_done(&format!("w{i}"))).count()
    };
    begin("a");
    assert_eq!(done(contents(), "a"), 3);
    assert_eq!(done(contents(), "b"), 0);
    begin("a");
    let mut other = contents();
    other.metadata("more", "1");
    assert_eq!(done(other, "a"), 0);
    begin("a");
    let notes = folder.path().join(".m.safetensors.partial.done");
    let text = std::fs::read(&notes).unwrap();
    // A line cut off, then nonsense.
    std::fs::write(&notes, &text[..text.len() - 1]).unwrap();
    let writer = Writer::resume(&path, contents(), "a").unwrap();
    assert!(writer.is_done("w2") && !writer.is_done("n2"));
    drop(writer);
    std::fs::write(&notes, [&text[..], b"99999\n0\n"].concat()).unwrap();
    assert_eq!(done(contents(), "a"), 3);
    std::fs::write(&notes, b"\xFF\xFE").unwrap();
    assert_eq!(done(contents(), "a"), 0);
}

/// A full disk: the child may not write past a size, and is told so instead of being killed.
#[cfg(unix)]
#[test]
fn a_full_disk_is_an_error_and_leaves_the_old_file() {
    let folder = Folder::new("save-full");
    let path = folder.path().join("m.safetensors");
    let old: AnyTensor = tensor::<f32, 1>(&device(), [4], 1).into();
    save(&path, [("old", &old)], Naming::ModelOpt).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" --exact child_writes --ignored"]);
    shell.arg(std::env::current_exe().unwrap()).env("FERROCERIUM_SAVE_TO", &path);
    let output = shell.output().unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    says(&text, &["Io", "m.safetensors"]);
    assert_eq!(raw(&load(&path)["old"]), raw(&old));
    // With room again, the same call works.
    assert!(child(&path).status().unwrap().success());
    assert_eq!(load(&path).len(), 2 * WEIGHTS);
}
