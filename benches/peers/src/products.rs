//! One matrix product by each crate.

use candle_core::{Device as CandleDevice, Tensor as CandleTensor, WithDType};
use ferrocerium::num::{Float, Scalar};
use ferrocerium::{Device, Tensor, bf16, f16};

use crate::common::{random, timed};

/// A product by a crate of that name: says how many seconds a run took.
pub type Product<'a> = (&'static str, Box<dyn FnMut() -> f64 + 'a>);

/// A type that several of the crates multiply.
pub trait Element: Float + WithDType {
    const NAME: &'static str;
    const NAN: Self;

    /// The products of crates that not all types have.
    fn others<'a>(_: &'a Operands<Self>) -> Vec<Product<'a>>;
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    const NAN: Self = f32::NAN;

    fn others<'a>(operands: &'a Operands<Self>) -> Vec<Product<'a>> {
        vec![by_gemm(operands), by_matrixmultiply(operands)]
    }
}

impl Element for f16 {
    const NAME: &'static str = "f16";
    const NAN: Self = f16::NAN;

    fn others<'a>(operands: &'a Operands<Self>) -> Vec<Product<'a>> {
        vec![by_gemm(operands)]
    }
}

impl Element for bf16 {
    const NAME: &'static str = "bf16";
    const NAN: Self = bf16::NAN;

    fn others<'a>(_: &'a Operands<Self>) -> Vec<Product<'a>> {
        vec![]
    }
}

/// `[m, k]` and `[n, k]`, of which the second is multiplied with transposed.
pub struct Operands<E: Element> {
    sizes: [usize; 3],
    a: Tensor<E, 2>,
    b: Tensor<E, 2>,
    a_host: Vec<E>,
    b_host: Vec<E>,
}

impl<E: Element> Operands<E> {
    pub fn random(device: &Device, sizes: [usize; 3]) -> Self {
        let [m, n, k] = sizes;
        let a = random(device, [m, k]).cast::<E>().expect("a cast");
        let b = random(device, [n, k]).cast::<E>().expect("a cast");
        let (a_host, b_host) = (a.to_vec().expect("host"), b.to_vec().expect("host"));
        Operands { sizes, a, b, a_host, b_host }
    }

    /// The product by each crate, by this one first.
    pub fn products(&self) -> Vec<Product<'_>> {
        let mut products = vec![by_us(self)];
        products.extend(E::others(self));
        products.push(by_candle(self));
        products
    }
}

fn by_us<E: Element>(operands: &Operands<E>) -> Product<'_> {
    let [m, n, _] = operands.sizes;
    let out = Tensor::<E, 2>::zeros(operands.a.device(), [m, n]).expect("memory");
    let b = operands.b.t();
    let run = move || {
        out.host_mut().expect("no guards").for_each_mut(|_, x| *x = E::NAN);
        let seconds = timed(|| operands.a.gemm(&b).run_into(&out).expect("sizes fit"));
        assert_written(&out.to_vec().expect("host"));
        seconds
    };
    ("ferrocerium", Box::new(run))
}

fn by_candle<E: Element>(operands: &Operands<E>) -> Product<'_> {
    let [m, n, k] = operands.sizes;
    let tensor = |host: &[E], rows| CandleTensor::from_slice(host, (rows, k), &CandleDevice::Cpu);
    let a = tensor(&operands.a_host, m).expect("sizes fit");
    let b = tensor(&operands.b_host, n).and_then(|b| b.t()).expect("sizes fit");
    let run = move || {
        let mut out = None;
        let seconds = timed(|| out = Some(a.matmul(&b).expect("sizes fit")));
        let out = out.and_then(|out| out.flatten_all().and_then(|out| out.to_vec1()).ok());
        assert_written::<E>(&out.expect("host"));
        seconds
    };
    ("candle", Box::new(run))
}

fn by_gemm<E: Element>(operands: &Operands<E>) -> Product<'_> {
    let [m, n, k] = operands.sizes;
    let threads = operands.a.device().caps().units;
    let mut out = vec![E::NAN; m * n];
    let run = move || {
        out.fill(E::NAN);
        let (a, b) = (operands.a_host.as_ptr(), operands.b_host.as_ptr());
        let (row, columns, zero, one) =
            (k as isize, n as isize, <E as Scalar>::from_f32(0.0), <E as Scalar>::from_f32(1.0));
        let seconds = timed(|| {
            // SAFETY: the slices have m·k, n·k and m·n elements, and the strides, of columns and
            // then of rows, stay inside.
            unsafe {
                gemm::gemm(
                    m,
                    n,
                    k,
                    out.as_mut_ptr(),
                    1,
                    columns,
                    false,
                    a,
                    1,
                    row,
                    b,
                    row,
                    1,
                    zero,
                    one,
                    false,
                    false,
                    false,
                    gemm::Parallelism::Rayon(threads),
                );
            }
        });
        assert_written(&out);
        seconds
    };
    ("gemm", Box::new(run))
}

fn by_matrixmultiply(operands: &Operands<f32>) -> Product<'_> {
    let [m, n, k] = operands.sizes;
    let mut out = vec![f32::NAN; m * n];
    let run = move || {
        out.fill(f32::NAN);
        let (a, b) = (operands.a_host.as_ptr(), operands.b_host.as_ptr());
        let (row, columns) = (k as isize, n as isize);
        let seconds = timed(|| {
            // SAFETY: the slices have m·k, n·k and m·n elements, and the strides, of rows and then
            // of columns, stay inside.
            unsafe {
                let out = out.as_mut_ptr();
                matrixmultiply::sgemm(m, k, n, 1.0, a, row, 1, b, 1, row, 0.0, out, columns, 1);
            }
        });
        assert_written(&out);
        seconds
    };
    ("matrixmultiply", Box::new(run))
}

fn assert_written<E: Element>(out: &[E]) {
    assert!(out.iter().all(|x| !Scalar::to_f32(*x).is_nan()), "an output was not written");
}
