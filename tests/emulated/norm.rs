//! Norms on GPUs, where rounding could show.

use ferrocerium::caps::Arch;
use ferrocerium::op::NormKind;
use ferrocerium::{Device, Tensor};

use super::emulated;

fn layer_norm(device: &Device, n: usize, value: f32, eps: f32) -> Vec<f32> {
    let x: Tensor<f32, 2> = Tensor::full(device, [1, n], value).unwrap();
    let y: Tensor<f32, 2> = x.norm(NormKind::Layer, eps).run().unwrap();
    y.to_vec().unwrap()
}

#[test]
fn equal_values_are_their_mean_to_the_last_bit() {
    let Some(device) = emulated(Arch::SM90A) else { return };
    for (n, value) in [(3, 0.1), (5, 0.7), (7, -1.1), (13, 3e7), (1030, 1e-3)] {
        assert!(layer_norm(&device, n, value, 1e-20).iter().all(|&y| y == 0.0), "{n} × {value}");
        // 0 / 0.
        assert!(layer_norm(&device, n, value, 0.0).iter().all(|y| y.is_nan()), "{n} × {value}");
    }
}
