//! Operands of an elementwise walk with fewer dimensions.

use super::dims::Dims;
use super::operand::{Dense, Operand};

/// The output and the inputs of an elementwise walk with as few dimensions as describe them all:
/// neighbours that every one of them steps through evenly are one. As they are where one is in a
/// block format.
pub(crate) fn collapse(out: &Operand, inputs: &[&Operand]) -> (Operand, Vec<Operand>) {
    let operands = || std::iter::once(out).chain(inputs.iter().copied());
    let dense: Option<Vec<&Dense>> = operands().map(Operand::as_dense).collect();
    let Some(dense) = dense else {
        return (out.clone(), inputs.iter().map(|&input| input.clone()).collect());
    };
    let dims = dense[0].dims;
    // Strides per dimension of the output: 0 where broadcast.
    let stride = |of: &Dense, axis: usize| match (axis + of.dims.len()).checked_sub(dims.len()) {
        Some(own) if of.dims[own] != 1 => of.strides[own],
        _ => 0,
    };
    let mut sizes: Vec<usize> = Vec::new();
    let mut strides: Vec<Vec<usize>> = vec![Vec::new(); dense.len()];
    for axis in (0..dims.len()).rev().filter(|&axis| dims[axis] != 1) {
        let inner = sizes.last().copied();
        let merges = inner.is_some_and(|inner| {
            let mut all = dense.iter().zip(&strides);
            all.all(|(of, s)| Some(stride(of, axis)) == s.last().map(|s| s.saturating_mul(inner)))
        });
        match sizes.last_mut() {
            Some(inner) if merges => *inner = inner.saturating_mul(dims[axis]),
            _ => {
                sizes.push(dims[axis]);
                strides.iter_mut().zip(&dense).for_each(|(s, of)| s.push(stride(of, axis)));
            }
        }
    }
    let or_one = |mut values: Vec<usize>| {
        if values.is_empty() {
            values.push(1);
        }
        values.reverse();
        // No more of them than before, but for the one of a single element.
        Dims::new(&values).unwrap_or_default()
    };
    let sizes = or_one(sizes);
    let mut collapsed = dense.iter().zip(strides).map(|(of, strides)| {
        Operand::from(Dense { dims: sizes, strides: or_one(strides), ..(*of).clone() })
    });
    let first = collapsed.next().unwrap_or_else(|| out.clone());
    (first, collapsed.collect())
}
