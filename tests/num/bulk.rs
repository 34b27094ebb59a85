//! Slice conversions are the element conversions, bit for bit.

use ferrocerium::num::{E2M1, E2M1x2, E8M0, F8E4M3, F8E5M2, Scalar, UE4M3, bf16, convert, f16};
use proptest::prelude::*;

/// Any bit pattern, and often one near the narrow formats' ranges.
fn values() -> impl Strategy<Value = Vec<f32>> {
    let near = (0u32..1 << 23, 90u32..150, any::<bool>())
        .prop_map(|(m, e, s)| f32::from_bits(m | e << 23 | u32::from(s) << 31));
    prop::collection::vec(prop_oneof![any::<u32>().prop_map(f32::from_bits), near], 0..300)
}

fn slices_agree<T: Scalar>(x: &[f32]) -> Result<(), TestCaseError> {
    let mut narrow = vec![T::from_f32(1.0); x.len()];
    T::from_f32_slice(x, &mut narrow);
    let mut back = vec![1.0; x.len()];
    T::to_f32_slice(&narrow, &mut back);
    for ((&x, &n), &b) in x.iter().zip(&narrow).zip(&back) {
        let want = T::from_f32(x);
        prop_assert_eq!(bytemuck::bytes_of(&n), bytemuck::bytes_of(&want), "{:e}", x);
        prop_assert_eq!(b.to_bits(), n.to_f32().to_bits(), "{:e}", x);
    }
    Ok(())
}

proptest! {
    #[test]
    fn slices_convert_as_their_elements_do(x in values()) {
        slices_agree::<F8E4M3>(&x)?;
        slices_agree::<F8E5M2>(&x)?;
        slices_agree::<UE4M3>(&x)?;
        slices_agree::<E8M0>(&x)?;
        slices_agree::<bf16>(&x)?;
        slices_agree::<f16>(&x)?;
        slices_agree::<f32>(&x)?;
        slices_agree::<f64>(&x)?;
        slices_agree::<i8>(&x)?;
    }

    #[test]
    fn packing_is_the_lower_index_in_the_low_nibble(x in values()) {
        let mut packed = vec![E2M1x2::from_bits(0xff); x.len().div_ceil(2)];
        convert::pack_e2m1(&x, &mut packed);
        let mut back = vec![1.0; x.len()];
        convert::unpack_e2m1(&packed, &mut back);
        for (i, &x) in x.iter().enumerate() {
            let want = E2M1::from_f32(x);
            let nibble = packed[i / 2].to_bits() >> (4 * (i % 2)) & 0xf;
            prop_assert_eq!(nibble, want.to_bits());
            prop_assert_eq!(back[i].to_bits(), want.to_f32().to_bits());
        }
        if x.len() % 2 == 1 {
            prop_assert_eq!(packed[x.len() / 2].hi().to_bits(), 0);
        }
    }

    #[test]
    fn the_first_non_finite_value_is_found(x in values()) {
        prop_assert_eq!(convert::first_non_finite(&x), x.iter().position(|x| !x.is_finite()));
        let finite: Vec<f32> = x.into_iter().filter(|x| x.is_finite()).collect();
        prop_assert_eq!(convert::first_non_finite(&finite), None);
    }
}

#[test]
fn every_16_bit_code_widens_the_same_in_a_slice() {
    fn check<T: Scalar>(codes: Vec<T>) {
        let mut wide = vec![0.0; codes.len()];
        T::to_f32_slice(&codes, &mut wide);
        for (c, w) in codes.into_iter().zip(wide) {
            assert_eq!(w.to_bits(), c.to_f32().to_bits());
            assert!(f64::from(w) == c.to_f64() || w.is_nan());
        }
    }
    check((0..=u16::MAX).map(bf16::from_bits).collect());
    check((0..=u16::MAX).map(f16::from_bits).collect());
}

#[test]
fn every_packed_byte_unpacks_to_its_two_values() {
    for byte in 0..=u8::MAX {
        let pair = E2M1x2::from_bits(byte);
        assert_eq!(E2M1x2::new(pair.lo(), pair.hi()), pair);
        assert_eq!(E2M1x2::from_f32s(pair.to_f32s()), pair);
        let mut values = [9.0; 2];
        convert::unpack_e2m1(&[pair], &mut values);
        assert_eq!(values.map(f32::to_bits), pair.to_f32s().map(f32::to_bits));
        assert_eq!(pair.lo().to_bits() | pair.hi().to_bits() << 4, byte);
    }
}

#[test]
#[should_panic(expected = "lengths differ")]
fn slices_of_different_lengths_are_refused() {
    F8E4M3::from_f32_slice(&[1.0; 3], &mut [F8E4M3::ZERO; 2]);
}

#[test]
#[should_panic(expected = "two values to a byte")]
fn a_packed_slice_of_the_wrong_length_is_refused() {
    convert::pack_e2m1(&[1.0; 3], &mut [E2M1x2::ZERO; 1]);
}
