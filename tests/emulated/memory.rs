//! Memory of GPUs that share the host's, and of those that have their own.

use ferrocerium::caps::{Arch, MemoryKind};
use ferrocerium::format::Nvfp4;
use ferrocerium::memory::{Buffer, LimitSource};
use ferrocerium::{Device, Error, Tensor, bf16};

use super::emulated;

/// A device with memory of its own, or `None` where there is no compiler.
pub fn discrete() -> Option<Device> {
    emulated(Arch::SM90A)?;
    Some(Device::builder().emulated_discrete(Arch::SM90A).unwrap())
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: ferrocerium::Result<T>, parts: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Memory { .. } | Error::NoKernel { .. }), "{error:?}");
    for part in parts {
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
}

#[test]
fn results_live_where_the_machine_has_them_or_where_they_were_asked_to() {
    let Some(shared) = emulated(Arch::SM121A) else { return };
    assert_eq!(shared.memory_kind(), MemoryKind::Host);
    assert_eq!(discrete().unwrap().memory_kind(), MemoryKind::Device);
    for kind in [MemoryKind::Pinned, MemoryKind::Managed, MemoryKind::Device, MemoryKind::Host] {
        let device = Device::builder().memory(kind).emulated(Arch::SM121A).unwrap();
        let x = Tensor::from_host(&device, [4, 16], &[bf16::ONE; 64]).unwrap();
        let y = x.matmul(&x.t()).unwrap();
        assert_eq!((x.region().buffer().kind(), y.region().buffer().kind()), (kind, kind));
        assert_eq!(y.to_vec().unwrap(), [bf16::from_f32(16.0); 16]);
        assert_eq!(y.host().is_ok(), kind != MemoryKind::Device);
    }
    let refused = Device::builder().memory(MemoryKind::Mapped).emulated(Arch::SM121A);
    assert!(refused.unwrap_err().to_string().contains("results can be in host, "));
    let refused = Device::builder().memory(MemoryKind::Host).emulated_discrete(Arch::SM90A);
    assert!(refused.unwrap_err().to_string().contains("results can be in device, "));
}

#[test]
fn the_device_s_own_memory_is_copied_when_a_call_says_so_and_never_borrowed() {
    let Some(device) = discrete() else { return };
    let x = Tensor::from_fn(&device, [4, 8], |[i, j]| (i * 8 + j) as f32).unwrap();
    let calls = ["device memory", "to_vec()", "to_kind(MemoryKind::Host)"];
    says(x.host().map(drop), &calls);
    says(x.host_mut().map(drop), &calls);
    says(x.region().buffer().read(), &calls);
    let row = x.slice(0, 2..3).unwrap();
    assert_eq!(row.to_vec().unwrap()[7], 23.0);
    assert_eq!(x.transpose(0, 1).unwrap().to_vec().unwrap()[1], 8.0);
    let host = x.to_kind(MemoryKind::Host).unwrap();
    assert_eq!(host.host().unwrap()[[3, 7]], 31.0);
    let back = host.to_kind(MemoryKind::Device).unwrap();
    assert_eq!(back.to_vec().unwrap(), x.to_vec().unwrap());
    assert_eq!(x.t().to_device(&Device::cpu()).unwrap().host().unwrap()[[7, 3]], 31.0);
    x.region().buffer().copy_from_host(4, &9.0f32.to_ne_bytes()).unwrap();
    assert_eq!(x.to_vec().unwrap()[..2], [0.0, 9.0]);
    assert!(format!("{x:?}").contains("9"), "{x:?}");
    assert!(x.region().buffer().copy_from_host(126, &[0; 4]).is_err());
    let scalar = Tensor::full(&device, [], 3.0f32).unwrap();
    assert_eq!(scalar.item().unwrap(), 3.0);
}

#[test]
fn operands_that_a_device_does_not_reach_are_refused() {
    let Some(device) = discrete() else { return };
    let here = Tensor::full(&Device::cpu(), [4, 16], bf16::ONE).unwrap();
    let there = here.to_device(&device).unwrap();
    says(there.matmul(&here.on(&device).t()), &["host memory", "does not reach", "to_device"]);
    says(there.on(&Device::cpu()).add_scalar(1.0), &["device memory", "cpu does not reach"]);
    let other = discrete().unwrap();
    says(there.on(&other).add_scalar(1.0), &["device memory", "does not reach"]);
    // Memory of the host that both reach is nobody's.
    let pinned = there.to_kind(MemoryKind::Pinned).unwrap();
    assert_eq!(pinned.on(&other).add_scalar(1.0).unwrap().to_vec().unwrap()[0].to_f32(), 2.0);
    // What only the reference does, does not run on what the host can not touch; `explain` says so.
    let x = Tensor::full(&device, [4, 16], 1.0f64).unwrap();
    says(x.softmax(), &["reference.softmax", "device memory"]);
    assert_eq!(x.to_kind(MemoryKind::Managed).unwrap().to_vec().unwrap(), [1.0; 64]);
}

#[test]
fn quantised_weights_go_to_the_device_and_are_multiplied_there() {
    let Some(device) = discrete() else { return };
    let cpu = Device::cpu();
    let wave = |[i, j]: [usize; 2]| ((i * 7 + j * 3) % 11) as f32 - 5.0;
    let w = Tensor::from_fn(&cpu, [24, 64], wave).unwrap().quantize::<Nvfp4>().unwrap();
    let x = Tensor::from_fn(&cpu, [5, 64], |at| bf16::from_f32(wave(at))).unwrap();
    let here: Tensor<f32, 2> = x.gemm(&w.t()).run().unwrap();
    let (x, w) = (x.to_device(&device).unwrap(), w.to_device(&device).unwrap());
    assert_eq!(w.to_kind(MemoryKind::Device).unwrap().bytes(), w.bytes());
    let there: Tensor<f32, 2> = x.gemm(&w.t()).run().unwrap();
    for (there, here) in there.to_vec().unwrap().iter().zip(here.to_vec().unwrap()) {
        assert!((there - here).abs() <= 1e-4 * here.abs().max(1.0), "{there} is not {here}");
    }
}

#[test]
fn kinds_that_are_not_there_are_errors_that_say_which_are() {
    let Some(device) = discrete() else { return };
    for kind in [MemoryKind::Device, MemoryKind::Pinned, MemoryKind::Managed, MemoryKind::Host] {
        let buffer: Buffer = device.allocate_kind(kind, 100, "some").unwrap();
        let mut bytes = [1; 100];
        buffer.copy_to_host(0, &mut bytes).unwrap();
        assert_eq!((buffer.kind(), bytes), (kind, [0; 100]));
        let fill = |bytes: &mut [u8]| {
            bytes.fill(3);
            Ok(())
        };
        buffer.fill(fill).unwrap();
        buffer.copy_to_host(99, &mut bytes[..1]).unwrap();
        assert_eq!(bytes[0], 3);
    }
    says(
        device.allocate_kind(MemoryKind::Mapped, 1, "file"),
        &["no mapped memory", "host, device, pinned, managed"],
    );
    says(Device::cpu().allocate_kind(MemoryKind::Pinned, 1, "x"), &["cpu", "host can be had"]);
}

#[test]
fn memory_of_its_own_is_limited_by_what_the_driver_says() {
    let Some(device) = discrete() else { return };
    let report = device.memory();
    let driver = |source: &LimitSource| matches!(source, LimitSource::Driver { .. });
    assert!(report.limits.iter().any(|limit| driver(&limit.source)), "{report}");
    let refused = device.allocate(1 << 40, "too much").unwrap_err().to_string();
    for part in ["1.0 TiB for `too much`", "by the driver: 8.0 GiB free of 8.0 GiB", "kept free"] {
        assert!(refused.contains(part), "{refused}");
    }
    let half = device.allocate(4 << 30, "half").unwrap();
    assert!(device.allocate(4 << 30, "the rest").unwrap_err().to_string().contains("`half`"));
    drop(half);
    assert_eq!(device.memory().used, 0);
    // A budget binds as well.
    let small = Device::builder().memory_limit(100).emulated_discrete(Arch::SM90A).unwrap();
    assert!(matches!(small.allocate(101, "x"), Err(Error::OutOfMemory { available: 100, .. })));
    // Where memory is the host's, the system says what there is.
    let shared = emulated(Arch::SM121A).unwrap();
    assert!(!shared.memory().limits.iter().any(|limit| driver(&limit.source)));
}
