//! A quantised tensor in owned vectors, and generators of tensors.

use std::fmt;

use ferrocerium::Result;
use ferrocerium::format::{
    BlockLayout, Format, QuantizeOptions, Quantized, Quantizer, ScaleLayout, dequantize,
    dequantize_f64, quantize,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// What `quantize` made of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    pub layout: BlockLayout,
    pub codes: Vec<u8>,
    pub scales: Vec<u8>,
    pub tensor_scale: f32,
}

impl Packed {
    pub fn new(
        layout: BlockLayout,
        options: impl Into<QuantizeOptions>,
        src: &[f32],
    ) -> Result<Self> {
        // Rubbish first: whatever is not written shows.
        let mut packed = Self {
            layout,
            codes: vec![0xA5; layout.codes_len()],
            scales: vec![0xA5; layout.scales_bytes()],
            tensor_scale: f32::NAN,
        };
        let out = Quantized {
            codes: &mut packed.codes,
            scales: &mut packed.scales,
            tensor_scale: Some(&mut packed.tensor_scale),
        };
        quantize(&layout, options, src, out)?;
        Ok(packed)
    }

    pub fn values(&self) -> Vec<f32> {
        let mut dst = vec![f32::NAN; self.layout.values_len()];
        dequantize(&self.layout, &self.codes, &self.scales, self.tensor_scale, &mut dst).unwrap();
        dst
    }

    pub fn exact(&self) -> Vec<f64> {
        let mut dst = vec![f64::NAN; self.layout.values_len()];
        dequantize_f64(&self.layout, &self.codes, &self.scales, self.tensor_scale, &mut dst)
            .unwrap();
        dst
    }

    /// The stored scale of the value at a flat index: its bits, or an f32 scale's bits.
    pub fn scale_bits(&self, index: usize) -> u32 {
        let (b, r, c) = self.position(index);
        let at = self.layout.scale_of(b, r, c);
        match self.layout.spec().scale.size() {
            1 => u32::from(self.scales[at]),
            _ => u32::from_ne_bytes(self.scales[4 * at..4 * at + 4].try_into().unwrap()),
        }
    }

    /// `s·g` of the value at a flat index, exact, from the definitions of the scale types.
    pub fn unit(&self, index: usize) -> f64 {
        let bits = self.scale_bits(index);
        let scale = match self.layout.spec().scale.name() {
            "e8m0" => 2f64.powi(bits as i32 - 127),
            "ue4m3" => {
                let (e, m) = ((bits >> 3) as i32, f64::from(bits & 7));
                if e == 0 { m * 2f64.powi(-9) } else { (8.0 + m) * 2f64.powi(e - 10) }
            }
            _ => f64::from(f32::from_bits(bits)),
        };
        scale * f64::from(self.tensor_scale)
    }

    pub fn position(&self, index: usize) -> (usize, usize, usize) {
        let (rows, k) = (self.layout.rows(), self.layout.k());
        (index / k / rows, index / k % rows, index % k)
    }

    /// Flat indices of the values, grouped by the scale they share.
    pub fn blocks(&self) -> Vec<Vec<usize>> {
        let mut blocks = vec![Vec::new(); self.layout.scales_len()];
        for i in 0..self.layout.values_len() {
            let (b, r, c) = self.position(i);
            blocks[self.layout.scale_of(b, r, c)].push(i);
        }
        blocks.retain(|b| !b.is_empty());
        blocks
    }

    /// Squared error of each block, in the order of `blocks`.
    pub fn errors(&self, src: &[f32]) -> Vec<f64> {
        let exact = self.exact();
        let square = |&i: &usize| (f64::from(src[i]) - exact[i]) * (f64::from(src[i]) - exact[i]);
        self.blocks().iter().map(|b| b.iter().map(square).fold(0.0, |a, e| a + e)).collect()
    }
}

/// A tensor to quantise.
#[derive(Clone)]
pub struct Case {
    pub layout: BlockLayout,
    pub values: Vec<f32>,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let l = &self.layout;
        write!(f, "{} [{}, {}, {}] {:?}", l.format(), l.batch(), l.rows(), l.k(), self.values)
    }
}

pub fn row_major(format: Format, batch: usize, rows: usize, k: usize) -> BlockLayout {
    BlockLayout::new(format, ScaleLayout::RowMajor, batch, rows, k).unwrap()
}

pub fn formats() -> impl Strategy<Value = Format> {
    proptest::sample::select(Format::ALL.to_vec())
}

/// Every rule defined for a format.
pub fn rules(format: Format) -> impl Iterator<Item = Quantizer> {
    Quantizer::ALL.into_iter().filter(move |q| q.supports(format))
}

/// Shapes around the blocks' sizes, zero included; tall or wide ones now and then.
pub fn shapes() -> impl Strategy<Value = (usize, usize, usize)> {
    prop_oneof![
        6 => (0..3usize, 0..5usize, 0..70usize),
        1 => (1..3usize, 126..135usize, 1..20usize),
        1 => (1..2usize, 1..3usize, 120..300usize),
    ]
}

/// Finite values of one of the distributions that break number formats.
pub fn values(len: usize) -> BoxedStrategy<Vec<f32>> {
    let unit = || -1.0..1.0f32;
    let bell = || (unit(), unit(), unit()).prop_map(|(a, b, c)| a + b + c).boxed();
    let element = prop_oneof![
        4 => Just(bell()),
        1 => Just(any::<f32>().prop_filter("finite", |x| x.is_finite()).boxed()),
        // Heavy tails.
        2 => Just((bell(), -6..6i32).prop_map(|(x, e)| x * 10f32.powi(e)).boxed()),
        1 => Just(prop_oneof![-1.0..1.0f32, -1e-30..1e-30f32, -1e30..1e30f32].boxed()),
        1 => Just((bell(), Just(1e-38f32)).prop_map(|(x, s)| x * s).boxed()),
        1 => Just((-0x1000..0x1000i32).prop_map(|i| i as f32 * f32::from_bits(1)).boxed()),
        1 => Just(bell().prop_map(|x| x * 1.1e38).boxed()),
        // On the code grid and on its midpoints.
        2 => Just((-24..=24i32, -8..8i32).prop_map(|(i, e)| i as f32 / 4.0 * 2f32.powi(e)).boxed()),
        1 => Just(prop_oneof![3 => Just(0.0f32), 1 => Just(-0.0f32), 1 => -1.0..1.0f32].boxed()),
        1 => bell().prop_map(|x| Just(x).boxed()),
    ];
    element.prop_flat_map(move |e| vec(e, len)).boxed()
}

/// Any tensor in a format.
pub fn case_of(format: Format) -> impl Strategy<Value = Case> {
    shapes().prop_flat_map(move |(batch, rows, k)| {
        let layout = row_major(format, batch, rows, k);
        values(layout.values_len()).prop_map(move |values| Case { layout, values })
    })
}

/// Any tensor in any format.
pub fn cases() -> impl Strategy<Value = Case> {
    formats().prop_flat_map(case_of)
}

/// Any tensor in any format, with a rule defined for it.
pub fn cases_and_rules() -> impl Strategy<Value = (Case, Quantizer)> {
    cases().prop_flat_map(|case| {
        let rules: Vec<_> = rules(case.layout.format()).collect();
        (Just(case), proptest::sample::select(rules))
    })
}

/// The bits of values, so that zeros' signs count in comparisons.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}
