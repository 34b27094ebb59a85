//! Make, quantise, multiply, explain.

use ferrocerium::{Device, Tensor, bf16, format::Nvfp4};

fn main() -> ferrocerium::Result<()> {
    let device = Device::best()?;

    // Four rows of activations, and weights of 64 outputs stored as [out, in].
    let x = Tensor::from_fn(&device, [4, 256], |[i, j]| bf16::from_f32((i + j) as f32 * 0.01))?;
    let w = Tensor::from_fn(&device, [64, 256], |[i, j]| 0.5 + (i as f32 - j as f32).sin())?;

    // 4-bit weights: codes, a scale per 16 of them, a tensor scale: 7 times smaller than f32…
    let w4 = w.quantize::<Nvfp4>()?;
    println!("{} bytes instead of {}", w4.bytes(), 4 * w.len());

    // …times 16-bit activations: the types say W4A16, and nothing else runs.
    let y: Tensor<bf16, 2> = x.matmul(&w4.t())?;
    println!("y[3, 0] = {}", y.to_vec()?[3 * 64]);

    // Activations are narrowed only because this line says so.
    let y4: Tensor<f32, 2> = x.quantize::<Nvfp4>()?.matmul(&w4.t())?;
    println!("y4[3, 0] = {}", y4.to_vec()?[3 * 64]);

    // Every kernel that was considered, and why it did or did not run.
    println!("{}", device.explain(&x.gemm(&w4.t()).spec::<bf16>()?)?);
    Ok(())
}
