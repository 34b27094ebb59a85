//! Elements that become one, and how threads and blocks share them: `kernels/include/shares.cuh`.

use std::cmp::Reverse;

use bytemuck::{Pod, Zeroable};

use super::args::code;
use super::gpu::Program;
use super::rows::{EIGHT, Run, THREADS};
use super::views::Dimensions;
use crate::error::Result;
use crate::num::DType;
use crate::op::Dense;

/// Types of elements that programs are made for.
pub(super) const DTYPES: [DType; 5] =
    [DType::F32, DType::BF16, DType::F16, DType::F8E4M3, DType::F8E5M2];

/// Elements of a result that a warp gathers; a block gathers more.
const OF_WARP: usize = 1024;

/// Parts of a result, at most: as many as one more kernel joins in the time of one part.
const MOST_PARTS: usize = 1024;

/// Elements of a part, at least: by a block of side by side, by four threads of columns.
const OF_BLOCK: usize = 8192;
const OF_COLUMN: usize = 64;

/// `Shares`
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Shares {
    x: u64,
    parts: u64,
    kept: Dimensions,
    gathered: Dimensions,
    count: i32,
    n: i32,
    of_part: i32,
    part_count: i32,
    eights: i32,
    lanes: i32,
    width: i32,
    height: i32,
}

/// A way to share them, and the kernels for it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub shares: Shares,
    /// Dimensions of x that results have, in their order as they are counted.
    pub kept: Vec<usize>,
    way: &'static str,
    blocks: usize,
}

impl Plan {
    /// For what is gathered over dimensions of an operand, whose elements an `i32` counts.
    ///
    /// Threads that share a result, and its parts, follow from how many elements it has: neither
    /// other results nor the machine change the order in which they are added.
    pub fn new(x: &Dense, address: u64, axes: &[usize]) -> Self {
        let [gathered, kept] = [true, false].map(|gathered| {
            let axes = (0..x.dims.len()).filter(|axis| axes.contains(axis) == gathered);
            let mut axes: Vec<usize> = axes.collect();
            axes.sort_by_key(|&axis| Reverse(steps(x, axis)));
            axes
        });
        let size = |axes: &[usize]| axes.iter().map(|&axis| x.dims[axis]).product::<usize>();
        let (count, n) = (size(&kept), size(&gathered));
        let of_neighbours = gathers_neighbours(x, axes);
        let mut shares = Shares {
            x: address,
            kept: Dimensions::new(x, kept.iter().copied()),
            gathered: Dimensions::new(x, gathered.iter().copied()),
            count: count as i32,
            n: n as i32,
            ..Shares::zeroed()
        };
        shares.eights = shares.has_eights(x.dtype.size(), of_neighbours).into();
        let (way, blocks) = match of_neighbours {
            true => shares.side_by_side(count, n),
            false => shares.in_columns(count, n),
        };
        Plan { shares, kept, way, blocks }
    }

    /// Binds memory for what is gathered of parts, numbers of so many bytes.
    pub fn bind(&mut self, run: &mut Run<'_, '_, '_>, bytes: usize) -> Result<()> {
        let Shares { count, part_count, .. } = self.shares;
        if part_count > 1 {
            let bytes = [count, part_count].iter().fold(bytes, |all, &n| all * n as usize);
            self.shares.parts = run.call.scratch(bytes, "parts of results")?;
        }
        Ok(())
    }

    /// Runs the kernels of a program whose names begin with `name`; their parameter has the shares.
    pub fn run(
        &self,
        run: &mut Run<'_, '_, '_>,
        program: &Program,
        name: &str,
        args: &impl Pod,
    ) -> Result<()> {
        run.run(program, &format!("{name}_{}", self.way), self.blocks, args)?;
        if self.shares.part_count == 1 {
            return Ok(());
        }
        let results = THREADS as usize / self.shares.lanes as usize;
        let blocks = (self.shares.count as usize).div_ceil(results);
        run.run(program, &format!("{name}_parts"), blocks, args)
    }
}

impl Shares {
    fn side_by_side(&mut self, count: usize, n: usize) -> (&'static str, usize) {
        if n <= OF_WARP {
            self.cut(n, n, 1);
            let lanes = n.div_ceil(EIGHT).next_power_of_two().min(32);
            self.lanes = lanes as i32;
            return ("lanes", (count * lanes).div_ceil(THREADS as usize));
        }
        let parts = self.cut(n, OF_BLOCK, EIGHT * THREADS as usize);
        ("block", count * parts)
    }

    fn in_columns(&mut self, count: usize, n: usize) -> (&'static str, usize) {
        let (threads, height) = (THREADS as usize, if n < 16 { 1 } else { 4 });
        let width = count.div_ceil(EIGHT).next_power_of_two().min(threads / height);
        (self.width, self.height) = (width as i32, height as i32);
        let parts = self.cut(n, OF_COLUMN, height);
        let blocks = count.div_ceil(EIGHT * width) * parts.div_ceil(threads / width / height);
        (if self.eights != 0 { "columns_by_eights" } else { "columns" }, blocks)
    }

    /// Cuts results into parts of a multiple of `together` elements, and how many there are.
    fn cut(&mut self, n: usize, least: usize, together: usize) -> usize {
        let of_part = n.div_ceil(MOST_PARTS).max(least).next_multiple_of(together);
        let parts = n.div_ceil(of_part.max(1)).max(1);
        (self.of_part, self.part_count) = (of_part as i32, parts as i32);
        // Each lane joins four, unless that makes more than 16 lanes.
        self.lanes = parts.div_ceil(4).next_power_of_two().min(16) as i32;
        parts
    }

    /// Whether eight neighbours, from a multiple of 8 on, are contiguous and aligned: of a result's
    /// elements, or else of results.
    fn has_eights(&self, size: usize, of_neighbours: bool) -> bool {
        let (along, across) = match of_neighbours {
            true => (&self.gathered, &self.kept),
            false => (&self.kept, &self.gathered),
        };
        let Some(((run, step), outer)) = along.innermost() else { return false };
        // The last elements of a result need not be eight.
        let whole = run % EIGHT == 0 || of_neighbours && outer.is_empty();
        let alignment = (EIGHT * size).min(16) as i64;
        let mut strides = outer.iter().chain(across.strides());
        whole
            && step == size as i64
            && self.x.is_multiple_of(alignment as u64)
            && strides.all(|stride| stride % alignment == 0)
    }
}

/// How far apart neighbours along a dimension are; repeated elements are not near each other.
fn steps(x: &Dense, axis: usize) -> usize {
    if x.strides[axis] == 0 { usize::MAX } else { x.strides[axis] }
}

/// Whether elements that lie side by side become one.
fn gathers_neighbours(x: &Dense, axes: &[usize]) -> bool {
    let long = (0..x.dims.len()).filter(|&axis| x.dims[axis] > 1);
    long.min_by_key(|&axis| steps(x, axis)).is_some_and(|axis| axes.contains(&axis))
}

/// Macros of a program for elements of a type.
pub(super) fn of_dtype(dtype: DType) -> (&'static str, u32) {
    ("DTYPE", code(dtype) as u32)
}
