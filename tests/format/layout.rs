//! Sizes, tails, and the two arrangements of scales.

use ferrocerium::Error;
use ferrocerium::format::{BlockLayout, Format, Quantizer, ScaleLayout, WHOLE, convert_scales};
use proptest::prelude::*;

use crate::support::{Packed, formats, row_major, shapes, values};

const TILEABLE: [Format; 4] = [Format::Nvfp4, Format::Mxfp4, Format::Mxfp8E4M3, Format::Mxfp8E5M2];

/// The offset of FORMATS' formula, written out tile by tile.
fn tiled_offset(rows: usize, cols: usize, batch: usize, row: usize, col: usize) -> usize {
    let (tiles_down, tiles_across) = (rows.div_ceil(128), cols.div_ceil(4));
    let (tile_row, tile_col) = (row / 128, col / 4);
    let (r, c) = (row - 128 * tile_row, col - 4 * tile_col);
    let tile = (batch * tiles_down + tile_row) * tiles_across + tile_col;
    tile * 512 + (r % 32) * 16 + (r / 32) * 4 + c
}

proptest! {
    #[test]
    fn sizes_are_those_of_whole_blocks(format in formats(), (batch, rows, k) in shapes()) {
        let l = row_major(format, batch, rows, k);
        let spec = l.spec();
        let width = if spec.block_k == WHOLE { k } else { k.div_ceil(spec.block_k) * spec.block_k };
        prop_assert_eq!(l.k_padded(), width);
        prop_assert_eq!(l.row_bytes() * spec.codes_per_byte, width);
        prop_assert_eq!(l.codes_len(), batch * rows * l.row_bytes());
        prop_assert_eq!(l.scales_len(), batch * l.scale_rows() * l.scale_cols());
        prop_assert_eq!(l.scales_bytes(), l.scales_len() * spec.scale.size());
        prop_assert_eq!(l.bands(), batch * l.scale_rows());
        let mut next = 0;
        for band in 0..l.bands() {
            let (b, range) = l.band(band);
            prop_assert_eq!(b * rows + range.start, next);
            next = b * rows + range.end;
        }
        prop_assert_eq!(next, batch * rows);
    }

    #[test]
    fn every_scale_has_its_own_place(format in formats(), tiled: bool, (b, r, k) in shapes()) {
        let wanted = if tiled { ScaleLayout::Tiled128x4 } else { ScaleLayout::RowMajor };
        let Ok(l) = BlockLayout::new(format, wanted, b, r, k) else { return Ok(()) };
        let mut taken = vec![false; l.scales_len()];
        for batch in 0..b {
            for row in 0..l.scale_rows() {
                for col in 0..l.scale_cols() {
                    let at = l.scale_index(batch, row, col);
                    prop_assert!(!std::mem::replace(&mut taken[at], true));
                }
            }
        }
    }

    #[test]
    fn tiled_scales_lie_where_the_formula_says(
        format in proptest::sample::select(TILEABLE.to_vec()),
        batch in 1..3usize, rows in 1..400usize, k in 1..700usize,
    ) {
        let l = BlockLayout::new(format, ScaleLayout::Tiled128x4, batch, rows, k).unwrap();
        let cols = k.div_ceil(l.spec().block_k);
        prop_assert_eq!(l.scales_len(), batch * rows.div_ceil(128) * cols.div_ceil(4) * 512);
        for b in 0..batch {
            for row in 0..rows {
                for col in 0..cols {
                    prop_assert_eq!(l.scale_index(b, row, col), tiled_offset(rows, cols, b, row, col));
                }
            }
        }
    }

    #[test]
    fn converting_scales_there_and_back_changes_nothing(
        format in proptest::sample::select(TILEABLE.to_vec()),
        batch in 0..3usize, rows in 0..300usize, k in 0..300usize, seed: u8,
    ) {
        let plain = row_major(format, batch, rows, k);
        let tiled = plain.with_scale_layout(ScaleLayout::Tiled128x4).unwrap();
        let src: Vec<u8> =
            (0..plain.scales_bytes()).map(|i| (i as u8).wrapping_mul(7) ^ seed | 1).collect();
        let mut there = vec![0xA5; tiled.scales_bytes()];
        convert_scales(&plain, &tiled, &src, &mut there).unwrap();
        let padding = there.iter().filter(|&&b| b == 0).count();
        prop_assert_eq!(padding, tiled.scales_len() - plain.scales_len());
        let mut again = vec![0xA5; tiled.scales_bytes()];
        convert_scales(&tiled, &tiled, &there, &mut again).unwrap();
        prop_assert_eq!(&again, &there);
        let mut back = vec![0xA5; plain.scales_bytes()];
        convert_scales(&tiled, &plain, &there, &mut back).unwrap();
        prop_assert_eq!(back, src);
    }

    #[test]
    fn quantising_into_tiles_is_quantising_then_converting(
        (layout, src) in (proptest::sample::select(TILEABLE.to_vec()), shapes()).prop_flat_map(
            |(format, (b, r, k))| (Just(row_major(format, b, r, k)), values(b * r * k))
        ),
    ) {
        let tiled = layout.with_scale_layout(ScaleLayout::Tiled128x4).unwrap();
        let plain = Packed::new(layout, Quantizer::Mse, &src).unwrap();
        let direct = Packed::new(tiled, Quantizer::Mse, &src).unwrap();
        let mut converted = vec![0xA5; tiled.scales_bytes()];
        convert_scales(&layout, &tiled, &plain.scales, &mut converted).unwrap();
        prop_assert_eq!(&direct.scales, &converted);
        prop_assert_eq!(&direct.codes, &plain.codes);
        prop_assert_eq!(direct.exact(), plain.exact());
    }
}

#[test]
fn scales_that_do_not_tile_are_refused() {
    for format in Format::ALL {
        let tiled = BlockLayout::new(format, ScaleLayout::Tiled128x4, 1, 8, 8);
        match tiled {
            Ok(_) => assert!(TILEABLE.contains(&format)),
            Err(Error::Layout { problem, .. }) => {
                assert!(!TILEABLE.contains(&format));
                assert!(problem.contains("use the row-major layout"), "{problem}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn sizes_beyond_memory_are_shape_errors() {
    let huge = [usize::MAX, usize::MAX - 1, usize::MAX / 2 + 1, 1 << 62, 1 << 40];
    for format in Format::ALL {
        for layout in [ScaleLayout::RowMajor, ScaleLayout::Tiled128x4] {
            for n in huge {
                for (b, r, k) in [(n, n, 1), (1, n, n), (n, 1, n), (2, n, 1 << 40), (n, n, n)] {
                    let found = BlockLayout::new(format, layout, b, r, k);
                    assert!(
                        matches!(found, Err(Error::Shape { .. } | Error::Layout { .. })),
                        "{format} {layout:?} [{b}, {r}, {k}]: {found:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_scale_that_spans_everything_exists_even_for_nothing() {
    let l = row_major(Format::Fp8TensorE4M3, 2, 0, 7);
    assert_eq!((l.codes_len(), l.scales_len()), (0, 2));
    let l = row_major(Format::Fp8Row, 1, 3, 0);
    let packed = Packed::new(l, Quantizer::Amax, &[]).unwrap();
    assert_eq!(packed.scales, 1f32.to_ne_bytes().repeat(3));
}

#[test]
fn converting_between_different_tensors_is_refused() {
    let a = row_major(Format::Mxfp4, 1, 8, 64);
    let b = row_major(Format::Mxfp4, 1, 8, 96);
    let mut dst = vec![0; b.scales_bytes()];
    let error = convert_scales(&a, &b, &vec![0; a.scales_bytes()], &mut dst).unwrap_err();
    assert!(matches!(error, Error::Layout { .. }), "{error}");
    let error = convert_scales(&a, &a, &[0; 3], &mut vec![0; a.scales_bytes()]).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}
