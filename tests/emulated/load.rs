//! Loading into memory that the host reaches only by copies.

use std::ops::ControlFlow;

use ferrocerium::caps::MemoryKind;
use ferrocerium::format::{Format, Fp8PerRow, Mxfp4, Nvfp4, Quantizer};
use ferrocerium::io::safetensors::{Naming, save};
use ferrocerium::io::{Loader, Target, Weights};
use ferrocerium::{AnyTensor, DType, Device, Tensor, bf16};

use super::folder::Folder;
use super::gguf_file::GgufFile;
use super::memory::discrete;

fn bytes(any: &AnyTensor) -> Vec<Vec<u8>> {
    let copied = any.operand().regions().map(|region| {
        let mut bytes = vec![0; region.len()];
        region.buffer().copy_to_host(region.offset(), &mut bytes).unwrap();
        bytes
    });
    copied.collect()
}

#[test]
fn models_are_loaded_into_memory_that_the_host_can_not_touch() {
    let Some(device) = discrete() else { return };
    let cpu = Device::cpu();
    let folder = Folder::new("emulated-load");
    let path = folder.path().join("model.safetensors");
    let wave = |[i, j]: [usize; 2]| ((i * 7 + j * 3) % 11) as f32 - 5.0;
    let wide = Tensor::from_fn(&cpu, [700, 1024], |at| bf16::from_f32(wave(at))).unwrap();
    let narrow = Tensor::from_fn(&cpu, [40, 256], wave).unwrap();
    let tensors: [(&str, AnyTensor); 4] = [
        ("wide.weight", wide.clone().into()),
        ("nvfp4.weight", narrow.quantize::<Nvfp4>().unwrap().into()),
        ("rows.weight", narrow.quantize::<Fp8PerRow>().unwrap().into()),
        ("norm.weight", wide.slice(0, 0..1).unwrap().into()),
    ];
    let named = tensors.iter().map(|(name, tensor)| (*name, tensor));
    save(&path, named, Naming::ModelOpt).unwrap();
    let targets = [
        Target::Keep,
        Target::Elements(DType::F32),
        Target::Blocks(Format::Nvfp4, Quantizer::Amax),
        Target::Blocks(Format::Fp8TensorE4M3, Quantizer::Amax),
    ];
    for target in targets {
        let plan = |device: &Device| Loader::open(device, &path).unwrap().plan(|_| target).unwrap();
        let plans = (plan(&device), plan(&cpu));
        assert!(plans.0.steps().iter().all(|step| step.kind == MemoryKind::Device));
        assert!(plans.0.to_string().contains(" in device memory"), "{}", plans.0);
        let before = device.memory().used;
        let there = plans.0.load(|progress| {
            let used = device.memory().used - before;
            assert!(used <= plans.0.peak(), "{progress}: {used} of {}", plans.0.peak());
            ControlFlow::Continue(())
        });
        let there = there.unwrap();
        assert_eq!(device.memory().used - before, plans.0.bytes());
        let here = plans.1.load(|_| ControlFlow::Continue(())).unwrap();
        for (name, loaded) in there.iter() {
            let kinds = loaded.operand().regions().all(|r| r.buffer().kind() == MemoryKind::Device);
            assert!(kinds, "{name}");
            assert!(bytes(loaded) == bytes(here.any(name).unwrap()), "{name} as {target:?}");
        }
    }
    let opened = |path| (Weights::open(&device, path).unwrap(), Weights::open(&cpu, path).unwrap());
    let (weights, here) = opened(&path);
    let copy = weights.copy::<bf16, 2>("wide.weight").unwrap();
    assert_eq!(copy.to_vec().unwrap(), wide.to_vec().unwrap());
    let decoded = weights.decode::<f32, 2>("rows.weight").unwrap().to_vec().unwrap();
    assert_eq!(decoded, here.decode::<f32, 2>("rows.weight").unwrap().to_vec().unwrap());

    let fp4: Vec<u8> = (0..17 * 4096).map(|i| (i * 37 % 120) as u8).collect();
    let gguf = GgufFile::default().tensor("m", &[256, 512], 39, &fp4);
    let path = folder.write("model.gguf", gguf.bytes());
    let keep =
        |device: &Device| Loader::open(device, &path).unwrap().plan(|_| Target::Keep).unwrap();
    let [there, here] =
        [&device, &cpu].map(|d| keep(d).load(|_| ControlFlow::Continue(())).unwrap());
    assert!(bytes(there.any("m").unwrap()) == bytes(here.any("m").unwrap()));
    let (weights, here) = opened(&path);
    let [there, here] =
        [weights, here].map(|w| AnyTensor::from(w.repack::<Mxfp4, 2>("m").unwrap()));
    assert!(bytes(&there) == bytes(&here));
}
