//! Loading: a plan that tells the truth, weights that are what the unplanned way gives, and
//! nothing left behind by what fails.
#![cfg(all(feature = "safetensors", feature = "gguf"))]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/gguf_file.rs"]
mod gguf_file;
#[path = "common/ops.rs"]
mod ops;
#[path = "common/safetensors_file.rs"]
mod safetensors_file;

use std::ops::ControlFlow;
use std::path::Path;

use ferrocerium::caps::MemoryKind;
use ferrocerium::format::{Format, Mxfp4, Nvfp4, Quantizer};
use ferrocerium::io::{Held, LoadPlan, LoadedWeights, Loader, Strategy, Target, Weights};
use ferrocerium::memory::SourceFile;
use ferrocerium::{AnyTensor, DType, Device, Error, Tensor, bf16};
use folder::Folder;
use gguf_file::GgufFile;
use ops::{numbers, says};
use safetensors_file::{Tensor as Part, file};

/// Codes of ggml's types.
const Q8_0: u32 = 8;
const MXFP4: u32 = 39;
const NVFP4: u32 = 40;
const F32: u32 = 0;

fn device() -> Device {
    Device::builder().threads(2).cpu().unwrap()
}

fn bytes_of(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()
}

fn go(plan: &LoadPlan) -> LoadedWeights {
    plan.load(|_| ControlFlow::Continue(())).unwrap()
}

fn plan(device: &Device, path: &Path, in_place: bool, target: Target) -> LoadPlan {
    Loader::open(device, path).unwrap().in_place(in_place).plan(|_| target).unwrap()
}

/// All bytes of a tensor, part by part.
fn raw(any: &AnyTensor) -> Vec<Vec<u8>> {
    any.operand().regions().map(|r| r.buffer().read().unwrap()[r.range()].to_vec()).collect()
}

/// A model with one bf16 tensor.
fn one_tensor(name: &str, shape: &[usize], values: &[f32]) -> Folder {
    let folder = Folder::new(&format!("loader-{name}"));
    folder.write("model.safetensors", file(&[("x.weight", "BF16", shape, &bytes_of(values))]));
    folder
}

#[test]
fn every_format_and_quantizer_gives_what_quantizing_the_whole_tensor_gives() {
    let device = device();
    // Several pieces for the threads, tails in both directions, one and several matrices.
    let shapes: [&[usize]; 5] = [&[3, 130, 200], &[1100, 1025], &[1, 16], &[7], &[2, 1]];
    for (i, shape) in shapes.iter().enumerate() {
        let values = numbers(shape.iter().product(), i as u64);
        let folder = one_tensor(&format!("all{i}"), shape, &values);
        let whole: AnyTensor =
            Weights::open(&device, folder.path()).unwrap().any("x.weight").unwrap();
        for format in Format::ALL {
            for quantizer in Quantizer::ALL {
                let target = Target::Blocks(format, quantizer);
                let plan = Loader::open(&device, folder.path()).unwrap().plan(|_| target);
                if !quantizer.supports(format) {
                    says(&plan.unwrap_err().to_string(), &[&format.to_string(), "x.weight"]);
                    continue;
                }
                // The search over all of a large matrix takes long in tests' builds.
                if values.len() > 100_000 && quantizer == Quantizer::Mse {
                    continue;
                }
                let loaded = go(&plan.unwrap());
                let expected = whole.quantize(format, quantizer).unwrap();
                let found = loaded.any("x.weight").unwrap();
                assert_eq!(found.to_string(), expected.to_string());
                assert!(raw(found) == raw(&expected), "{shape:?} {format} {quantizer}");
            }
        }
    }
}

#[test]
fn elements_are_converted_as_decoding_converts_them() {
    let device = device();
    let values = numbers(1100 * 1025, 3);
    let folder = one_tensor("elements", &[1100, 1025], &values);
    let weights = Weights::open(&device, folder.path()).unwrap();
    for in_place in [true, false] {
        let kept = plan(&device, folder.path(), in_place, Target::Keep);
        let strategy = if in_place { Strategy::Map } else { Strategy::Read };
        assert_eq!(kept.steps()[0].strategy, strategy);
        let loaded = go(&kept);
        let x: Tensor<bf16, 2> = loaded.tensor("x.weight").unwrap();
        assert_eq!(
            x.to_vec().unwrap(),
            weights.get::<bf16, 2>("x.weight").unwrap().to_vec().unwrap()
        );
        let kind = if in_place { MemoryKind::Mapped } else { MemoryKind::Host };
        assert_eq!((x.region().buffer().kind(), kept.steps()[0].kind), (kind, kind));
    }
    let whole = weights.any("x.weight").unwrap();
    for dtype in [DType::F32, DType::F16, DType::F64, DType::F8E4M3, DType::F8E5M2] {
        let loaded = go(&plan(&device, folder.path(), true, Target::Elements(dtype)));
        let found = loaded.any("x.weight").unwrap();
        assert_eq!(found.dtype(), Some(dtype));
        assert!(raw(found) == raw(&whole.cast(dtype).unwrap()), "{dtype}");
    }
    for dtype in [DType::I8, DType::E8M0, DType::E2M1x2] {
        let loader = Loader::open(&device, folder.path()).unwrap();
        let refused = loader.plan(|_| Target::Elements(dtype)).unwrap_err();
        assert!(matches!(refused, Error::DType { .. }), "{refused}");
    }
}

#[test]
fn blocks_of_gguf_are_taken_apart_decoded_or_quantized() {
    let device = device();
    let fp4 = |bytes: usize, seed: u8| -> Vec<u8> {
        (0..bytes).map(|i| ((i * 37 + usize::from(seed)) % 120) as u8).collect()
    };
    let q8: Vec<u8> = (0..40 * 4).flat_map(|i| [&[0, 0x30][..], &[i as u8; 32]].concat()).collect();
    let gguf = GgufFile::default()
        .tensor("q", &[128, 40], Q8_0, &q8)
        .tensor("m", &[64, 6], MXFP4, &fp4(17 * 12, 1))
        .tensor("n.weight", &[128, 3], NVFP4, &fp4(36 * 6, 2))
        .tensor("n.scale", &[1], F32, &0.25f32.to_le_bytes())
        .tensor("e.weight", &[64, 2, 3], NVFP4, &fp4(36 * 6, 3))
        .tensor("e.scale", &[3], F32, &[0.5f32, 1.0, 2.0].map(f32::to_le_bytes).concat());
    let folder = Folder::new("loader-gguf");
    let path = folder.write("model.gguf", gguf.bytes());
    let weights = Weights::open(&device, &path).unwrap();

    let kept = plan(&device, &path, true, Target::Keep);
    let held = |name: &str| kept.steps().iter().find(|s| s.name == name).map(|s| s.held);
    assert_eq!(held("q"), Some(Held::Elements(DType::F32)));
    assert_eq!(held("m"), Some(Held::Blocks(Format::Mxfp4)));
    assert_eq!(held("n.weight"), Some(Held::Blocks(Format::Nvfp4)));
    // One tensor can carry one scale.
    assert_eq!(held("e.weight"), Some(Held::Elements(DType::F32)));
    assert_eq!(held("n.scale"), None);
    let loaded = go(&kept);
    let m: AnyTensor = weights.repack::<Mxfp4, 2>("m").unwrap().into();
    let n: AnyTensor = weights.repack::<Nvfp4, 2>("n.weight").unwrap().into();
    assert_eq!(raw(loaded.any("m").unwrap()), raw(&m));
    assert_eq!(raw(loaded.any("n.weight").unwrap()), raw(&n));
    for name in ["q", "e.weight"] {
        let found = loaded.any(name).unwrap();
        let values: Vec<u8> = bytemuck_bytes(&weights.to_f32(name).unwrap());
        assert_eq!(raw(found), [values], "{name}");
    }

    let narrow = go(&plan(&device, &path, true, Target::Blocks(Format::Mxfp4, Quantizer::Ocp)));
    let q = weights.decode::<f32, 2>("q").unwrap();
    let expected: AnyTensor = q.quantize::<Mxfp4>().unwrap().into();
    assert_eq!(raw(narrow.any("q").unwrap()), raw(&expected));
    // Already in that format: no value changes.
    assert_eq!(raw(narrow.any("m").unwrap()), raw(&m));
}

fn bytemuck_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

/// A ModelOpt NVFP4 weight, a block-scaled FP8 one as DeepSeek names it, and FP8 rows with bf16
/// scales.
fn scaled_model(folder: &Folder) {
    let codes: Vec<u8> = (0..140 * 256).map(|i| ((i * 29) % 0x70) as u8).collect();
    let scales: Vec<u8> = (0..140 * 32).map(|i| 0x20 + ((i * 7) % 0x40) as u8).collect();
    let f32s = |values: &[f32]| bytemuck_bytes(values);
    let parts: [Part<'_>; 8] = [
        ("n.weight", "U8", &[140, 256], &codes),
        ("n.weight_scale", "F8_E4M3", &[140, 32], &scales),
        ("n.weight_scale_2", "F32", &[], &f32s(&[0.125])),
        ("d.weight", "F8_E4M3", &[140, 256], &codes),
        ("d.weight_scale_inv", "F32", &[2, 2], &f32s(&[0.5, 2.0, 3.0, 0.25])),
        ("r.weight", "F8_E4M3", &[140, 256], &codes),
        ("r.weight_scale", "BF16", &[140, 1], &bytes_of(&numbers(140, 5))),
        ("norm.weight", "BF16", &[16], &bytes_of(&numbers(16, 6))),
    ];
    folder.write("model.safetensors", file(&parts));
}

#[test]
fn scaled_weights_are_mapped_read_or_converted_as_one() {
    let device = device();
    let folder = Folder::new("loader-scaled");
    scaled_model(&folder);
    let weights = Weights::open(&device, folder.path()).unwrap();
    let names = |plan: &LoadPlan| -> Vec<String> {
        plan.steps().iter().map(|step| step.name.clone()).collect()
    };
    let mapped = plan(&device, folder.path(), true, Target::Keep);
    assert_eq!(names(&mapped), ["n.weight", "d.weight", "r.weight", "norm.weight"]);
    let read = plan(&device, folder.path(), false, Target::Keep);
    assert!(read.steps().iter().all(|step| step.strategy == Strategy::Read));
    let (mapped, read) = (go(&mapped), go(&read));
    for (name, any) in mapped.iter() {
        assert_eq!(raw(any), raw(read.any(name).unwrap()), "{name}");
    }
    let n: AnyTensor = weights.scaled::<Nvfp4, 2>("n.weight").unwrap().into();
    assert_eq!(raw(read.any("n.weight").unwrap()), raw(&n));

    let wide = go(&plan(&device, folder.path(), true, Target::Elements(DType::F32)));
    let narrow =
        go(&plan(&device, folder.path(), true, Target::Blocks(Format::Mxfp4, Quantizer::Ocp)));
    for name in ["n.weight", "d.weight", "r.weight"] {
        let decoded = weights.to_f32(name).unwrap();
        assert_eq!(raw(wide.any(name).unwrap()), [bytemuck_bytes(&decoded)], "{name}");
        let whole = weights.decode::<f32, 2>(name).unwrap().quantize::<Mxfp4>().unwrap();
        assert_eq!(raw(narrow.any(name).unwrap()), raw(&whole.into()), "{name}");
    }
}

#[test]
fn memory_at_every_step_is_what_the_plan_says() {
    let device = Device::builder().threads(2).memory_limit(1 << 30).cpu().unwrap();
    let folder = Folder::new("loader-plan");
    let values = bytes_of(&numbers(512 * 1024, 1));
    let parts: [Part<'_>; 3] = [
        ("a.weight", "BF16", &[512, 1024], &values),
        ("b.weight", "BF16", &[512, 1024], &values),
        ("norm.weight", "BF16", &[1024], &values[..2048]),
    ];
    folder.write("model.safetensors", file(&parts));
    let loader = Loader::open(&device, folder.path()).unwrap().in_place(false);
    let plan = loader
        .plan(|w| match w.is_linear() {
            true => Target::Blocks(Format::Nvfp4, Quantizer::Amax),
            false => Target::Keep,
        })
        .unwrap();
    let nvfp4 = 512 * 1024 / 2 + 512 * 1024 / 16 + 4;
    let bytes: Vec<u64> = plan.steps().iter().map(|step| step.bytes).collect();
    assert_eq!(bytes, [nvfp4, nvfp4, 2048]);
    assert_eq!(plan.bytes(), 2 * nvfp4 + 2048);
    assert_eq!(plan.file_bytes(), 2 * (2 << 19) + 2048);
    let peaks: Vec<u64> = plan.steps().iter().map(|step| step.peak - step.scratch).collect();
    assert_eq!(peaks, [nvfp4, 2 * nvfp4, 2 * nvfp4 + 2048]);
    assert!(plan.peak() < plan.bytes() + (16 << 20));
    let text = plan.to_string();
    for part in ["3 weights", "convert", "a.weight [512, 1024] bf16 -> nvfp4", "by amax", "peak"] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }

    let mut used = Vec::new();
    let mut bytes_done = 0;
    let loaded = plan
        .load(|progress| {
            assert!(progress.bytes_done >= bytes_done && progress.bytes_done <= progress.bytes);
            bytes_done = progress.bytes_done;
            used.push((progress.weights_done, device.memory().used));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(bytes_done, plan.file_bytes());
    for (done, used) in used {
        let before: u64 = bytes[..done].iter().sum();
        assert!((before..=plan.steps()[done.min(2)].peak).contains(&used), "{done} {used}");
    }
    assert_eq!(device.memory().used, plan.bytes());
    drop(loaded);
    assert_eq!(device.memory().used, 0);
}

#[test]
fn however_many_threads_convert_their_pieces_are_bounded() {
    let folder = Folder::new("loader-threads");
    // Sparse: nobody writes or reads it.
    let header = r#"{"up.weight": {"dtype": "BF16", "shape": [16384, 32768], "data_offsets": [0, 1073741824]}}"#;
    let bytes = safetensors_file::with_header(header, &[]);
    let path = folder.write("model.safetensors", &bytes);
    let sparse = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    sparse.set_len(bytes.len() as u64 + (1 << 30)).unwrap();
    let scratch = |threads, format| {
        let device = Device::builder().threads(threads).memory_limit(4 << 30).cpu().unwrap();
        let target = Target::Blocks(format, Quantizer::Amax);
        plan(&device, &path, false, target).steps()[0].scratch
    };
    for format in Format::ALL {
        // As many as there is room for: 256 MB for all, of whatever format.
        assert!((128 << 20..256_000_000).contains(&scratch(256, format)), "{format}");
        assert!(scratch(2, format) < 64 << 20, "{format}");
    }
}

#[test]
fn a_model_over_the_budget_is_refused_before_it_is_read_and_told_what_fits() {
    let folder = Folder::new("loader-budget");
    // Sparse: a gigabyte that nobody writes.
    let len = 1u64 << 30;
    let header = r#"{"up.weight": {"dtype": "BF16", "shape": [16384, 32768], "data_offsets": [0, 1073741824]}}"#;
    let bytes = safetensors_file::with_header(header, &[]);
    let path = folder.write("model.safetensors", &bytes);
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(bytes.len() as u64 + len)
        .unwrap();
    let device = Device::builder().threads(2).memory_limit(600 << 20).cpu().unwrap();
    let loader = Loader::open(&device, &path).unwrap().in_place(false);
    let plan = loader.plan(|_| Target::Keep).unwrap();
    let refused = plan.load(|_| panic!("it began")).unwrap_err();
    let Error::OutOfMemory { request, available, explanation, .. } = &refused else {
        panic!("{refused}");
    };
    assert_eq!((*request, *available), (plan.peak(), 600 << 20));
    // Beyond the weight, no more than the pieces that are on their way.
    assert!((len..len + (64 << 20)).contains(request), "{request}");
    let fits = "in these it fits: mxfp8";
    says(
        explanation,
        &["by the memory limit", fits, "fp8row", "nvfp4", "mxfp4", "mapped in place"],
    );
    assert!(!explanation.contains("bf16"), "{explanation}");
    let small = Device::builder().threads(2).memory_limit(1 << 20).cpu().unwrap();
    let loader = Loader::open(&small, &path).unwrap().in_place(false);
    let plan = loader.plan(|_| Target::Blocks(Format::Nvfp4, Quantizer::Amax)).unwrap();
    says(&plan.check().unwrap_err().to_string(), &["mapped in place (0 B)"]);
    // In place it takes no memory at all.
    let loader = loader.in_place(true);
    assert!(go(&loader.plan(|_| Target::Keep).unwrap()).tensor::<bf16, 2>("up.weight").is_ok());
}

#[test]
fn cancelling_at_any_report_frees_everything_and_loading_works_again() {
    let device = device();
    let folder = Folder::new("loader-cancel");
    scaled_model(&folder);
    let plan = plan(&device, folder.path(), false, Target::Blocks(Format::Nvfp4, Quantizer::Amax));
    let mut reports = 0;
    drop(plan.load(|_| {
        reports += 1;
        ControlFlow::Continue(())
    }));
    assert!(reports > 8, "{reports}");
    for stop in 1..=reports {
        let mut seen = 0;
        let cancelled = plan.load(|_| {
            seen += 1;
            if seen == stop { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        assert!(matches!(cancelled, Err(Error::Cancelled { .. })));
        assert_eq!((seen, device.memory().used), (stop, 0));
    }
    assert_eq!(go(&plan).len(), 4);
}

#[test]
fn what_the_page_cache_does_not_hold_is_read_past_it_and_is_the_same() {
    let device = device();
    // Larger than a piece that is read at once, and at any place; the second at a block's.
    let a = bytes_of(&numbers(3_000_004, 4));
    let b: Vec<u8> =
        (0..6_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let header = format!(
        r#"{{"a": {{"dtype": "BF16", "shape": [{}], "data_offsets": [0, {}]}},
            "b": {{"dtype": "U8", "shape": [{}], "data_offsets": [{}, {}]}}}}"#,
        a.len() / 2,
        a.len(),
        b.len(),
        a.len(),
        a.len() + b.len()
    );
    for block in [None, Some(4096)] {
        let mut header = header.clone();
        // Where `b` is to begin at a block, blanks follow the header.
        while block.is_some_and(|block| !(8 + header.len() + a.len()).is_multiple_of(block)) {
            header.push(' ');
        }
        let folder = Folder::new("loader-direct");
        let bytes = safetensors_file::with_header(&header, &[&a[..], &b].concat());
        let path = folder.write("model.safetensors", bytes);
        for keep in [None, Some(false), Some(true)] {
            std::fs::File::open(&path).unwrap().sync_all().unwrap();
            SourceFile::open(&path).unwrap().will_not_read(0..u64::MAX >> 1);
            let mut loader = Loader::open(&device, &path).unwrap().in_place(false);
            if let Some(keep) = keep {
                loader = loader.drop_behind(!keep);
            }
            let plan = loader.plan(|_| Target::Keep).unwrap();
            let mut reports = 0;
            let loaded = plan.load(|progress| {
                reports += 1;
                assert!(device.memory().used <= plan.peak(), "{progress}");
                ControlFlow::Continue(())
            });
            let loaded = loaded.unwrap();
            assert!(reports >= 6, "{reports}");
            assert!(raw(loaded.any("a").unwrap()) == [a.clone()], "{block:?} {keep:?}");
            assert!(raw(loaded.any("b").unwrap()) == [b.clone()], "{block:?} {keep:?}");
            assert_eq!(device.memory().used, plan.bytes());
        }
    }
}

/// The share of a file that the page cache holds.
#[cfg(target_os = "linux")]
fn cached(path: &Path) -> f64 {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: no byte of the mapping is ever touched.
    let map = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    let mut pages = vec![0u8; map.len().div_ceil(4096)];
    // SAFETY: there is a byte for each page of the mapping.
    let asked =
        unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr()) };
    assert_eq!(asked, 0);
    pages.iter().filter(|page| **page & 1 == 1).count() as f64 / pages.len() as f64
}

#[cfg(target_os = "linux")]
#[test]
fn the_page_cache_lets_go_of_what_was_read_when_it_is_to() {
    let device = device();
    let folder = Folder::new("loader-behind");
    // Smaller than what the cache holds as one piece, and at no borders of such.
    let values = bytes_of(&numbers(700 * 512, 1));
    let names: Vec<String> = (0..8).map(|i| format!("{i}.weight")).collect();
    let shape: &[usize] = &[700, 512];
    let parts: Vec<Part<'_>> =
        names.iter().map(|name| (name.as_str(), "BF16", shape, &values[..])).collect();
    let path = folder.write("model.safetensors", file(&parts));
    std::fs::File::open(&path).unwrap().sync_all().unwrap();
    SourceFile::open(&path).unwrap().will_not_read(0..u64::MAX >> 1);
    if cached(&path) > 0.0 {
        // A file system in memory has no other place for it.
        return;
    }
    let nvfp4 = Target::Blocks(Format::Nvfp4, Quantizer::Amax);
    for target in [Target::Keep, Target::Elements(DType::F32), nvfp4] {
        for behind in [true, false] {
            std::fs::read(&path).unwrap();
            assert!(cached(&path) > 0.99);
            let loader = Loader::open(&device, &path).unwrap().in_place(false);
            go(&loader.drop_behind(behind).plan(|_| target).unwrap());
            let left = cached(&path);
            assert!(if behind { left < 0.01 } else { left > 0.99 }, "{target:?} {behind}: {left}");
        }
    }
}

#[test]
fn a_file_that_is_cut_off_after_opening_is_an_error_and_no_signal() {
    let device = device();
    let values = numbers(256 * 1024, 9);
    for (i, target) in
        [Target::Keep, Target::Elements(DType::F32), Target::Blocks(Format::Nvfp4, Quantizer::Amax)]
            .into_iter()
            .enumerate()
    {
        let folder = one_tensor(&format!("cut{i}"), &[256, 1024], &values);
        let plan = plan(&device, folder.path(), false, target);
        let path = folder.path().join("model.safetensors");
        let cut = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        cut.set_len(100_000).unwrap();
        let error = plan.load(|_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, Error::File { .. }), "{error}");
        says(&error.to_string(), &["model.safetensors", "cut off"]);
        assert_eq!(device.memory().used, 0);
    }
}

#[test]
fn a_value_that_no_format_holds_names_its_weight_and_place() {
    let device = device();
    let mut values = numbers(300 * 5000, 2);
    values[1_234_567] = f32::NAN;
    let folder = one_tensor("nan", &[300, 5000], &values);
    for format in Format::ALL {
        let target = Target::Blocks(format, Quantizer::default_for(format));
        let plan = plan(&device, folder.path(), true, target);
        let error = plan.load(|_| ControlFlow::Continue(())).unwrap_err();
        assert!(matches!(error, Error::Value { .. }), "{error}");
        says(&error.to_string(), &["x.weight", format.name(), "1234567", "NaN"]);
    }
}

#[test]
fn weights_can_be_skipped_and_what_is_not_there_is_said() {
    let device = device();
    let folder = Folder::new("loader-skip");
    scaled_model(&folder);
    let loader = Loader::open(&device, folder.path()).unwrap();
    let only = |name: &'static str| {
        loader.plan(|w| if w.name() == name { Target::Keep } else { Target::Skip }).unwrap()
    };
    let mut loaded = go(&only("norm.weight"));
    assert_eq!((loaded.len(), loaded.is_empty()), (1, false));
    says(&loaded.any("n.weight").unwrap_err().to_string(), &["n.weight", "1 loaded"]);
    assert!(loaded.take("norm.weight").is_some() && loaded.take("norm.weight").is_none());
    let stored: Vec<_> = loader.weights().unwrap().iter().map(|w| w.stored()).collect();
    assert_eq!(stored, ["nvfp4", "fp8block128", "fp8row", "bf16"]);
}

#[test]
fn matrices_of_linear_layers_are_told_from_others() {
    let device = device();
    let shapes: [(&str, &[usize], bool); 9] = [
        ("model.layers.0.mlp.up_proj.weight", &[4, 4], true),
        ("blk.0.attn_output.weight", &[4, 4], true),
        ("experts.down_proj", &[2, 2, 4], true),
        ("model.embed_tokens.weight", &[4, 4], false),
        ("token_embd.weight", &[4, 4], false),
        ("output.weight", &[4, 4], false),
        ("lm_head.weight", &[4, 4], false),
        ("model.layers.0.mlp.gate.weight", &[4, 4], false),
        ("model.norm.weight", &[16], false),
    ];
    let data = bytes_of(&[0.0; 16]);
    let parts: Vec<Part<'_>> = shapes.iter().map(|(n, s, _)| (*n, "BF16", *s, &data[..])).collect();
    let folder = Folder::new("loader-linear");
    folder.write("model.safetensors", file(&parts));
    let loader = Loader::open(&device, folder.path()).unwrap();
    for weight in loader.weights().unwrap() {
        let (.., expected) = shapes.iter().find(|(name, ..)| *name == weight.name()).unwrap();
        assert_eq!(weight.is_linear(), *expected, "{}", weight.name());
    }
}

#[test]
fn a_model_in_several_gguf_files_is_opened_by_the_first() {
    let folder = Folder::new("loader-split");
    let part = |no: u32, count: u32, total: u32, name: &str| {
        GgufFile::default()
            .u32("split.no", no)
            .u32("split.count", count)
            .u32("split.tensors.count", total)
            .tensor(name, &[2], F32, &bytemuck_bytes(&[no as f32, 7.0]))
            .bytes()
    };
    let path = folder.write("m-00001-of-00002.gguf", part(0, 2, 2, "a"));
    let second = folder.write("m-00002-of-00002.gguf", part(1, 2, 2, "b"));
    let device = device();
    let plan = |device: &Device| plan(device, &path, true, Target::Keep);
    let text = plan(&device).to_string();
    says(&text, &["from m-00001-of-00002.gguf\n", "from m-00002-of-00002.gguf\n"]);
    let loaded = go(&plan(&device));
    assert_eq!(loaded.tensor::<f32, 1>("b").unwrap().to_vec().unwrap(), [1.0, 7.0]);
    assert_eq!(loaded.tensor::<f32, 1>("a").unwrap().to_vec().unwrap(), [0.0, 7.0]);

    let refused = |parts: &[&str]| {
        says(&Weights::open(&device, &path).unwrap_err().to_string(), parts);
    };
    says(&Weights::open(&device, &second).unwrap_err().to_string(), &["file 2 of 2", "the first"]);
    folder.write("m-00002-of-00002.gguf", part(1, 2, 2, "a"));
    refused(&["\"a\"", "another file"]);
    folder.write("m-00002-of-00002.gguf", part(0, 2, 2, "b"));
    refused(&["00002-of-00002", "file 2 of 2"]);
    folder.write("m-00002-of-00002.gguf", part(1, 2, 9, "b"));
    folder.write("m-00001-of-00002.gguf", part(0, 2, 9, "a"));
    refused(&["9 tensors", "have 2"]);
    folder.write("m-00001-of-00002.gguf", part(0, 3_000_000, 9, "a"));
    refused(&["3000000"]);
    std::fs::remove_file(&second).unwrap();
    folder.write("m-00001-of-00002.gguf", part(0, 2, 2, "a"));
    refused(&["m-00002-of-00002.gguf"]);
    let renamed = folder.write("m.gguf", part(0, 2, 2, "a"));
    says(&Weights::open(&device, renamed).unwrap_err().to_string(), &["-00001-of-00002.gguf"]);
}

#[cfg(unix)]
#[test]
fn links_of_an_index_lead_nowhere_but_beside_it_or_into_the_hub_cache() {
    use std::os::unix::fs::symlink;
    let index = |file: &str| format!(r#"{{"weight_map": {{"x.weight": "{file}"}}}}"#);
    let outside = one_tensor("outside", &[2], &[1.0, 2.0]);
    let folder = Folder::new("loader-links");
    folder.write("model.safetensors.index.json", index("a.safetensors"));
    symlink(outside.path().join("model.safetensors"), folder.path().join("a.safetensors")).unwrap();
    let device = device();
    let refused = Weights::open(&device, folder.path()).unwrap_err().to_string();
    says(&refused, &["a.safetensors", "a link to", "outside the folder"]);
    // Within the folder a link is as good as a name.
    std::fs::copy(outside.path().join("model.safetensors"), folder.path().join("b.safetensors"))
        .unwrap();
    std::fs::remove_file(folder.path().join("a.safetensors")).unwrap();
    symlink("b.safetensors", folder.path().join("a.safetensors")).unwrap();
    assert!(Weights::open(&device, folder.path()).is_ok());

    // The hub's cache: snapshots/<commit>/ has links to blobs/.
    let hub = Folder::new("loader-hub");
    let (blobs, snapshot) = (hub.path().join("blobs"), hub.path().join("snapshots/1"));
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::copy(outside.path().join("model.safetensors"), blobs.join("aa")).unwrap();
    std::fs::write(blobs.join("bb"), index("a.safetensors")).unwrap();
    symlink("../../blobs/aa", snapshot.join("a.safetensors")).unwrap();
    symlink("../../blobs/bb", snapshot.join("model.safetensors.index.json")).unwrap();
    assert!(Weights::open(&device, &snapshot).is_ok());
}
