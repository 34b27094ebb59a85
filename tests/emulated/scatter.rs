//! Scatters on GPUs of few slices, which are compared with each other, and of many, for which a table
//! is made.

use ferrocerium::caps::Arch;
use ferrocerium::testing::Config;
use ferrocerium::{Device, Error, Tensor};

use super::emulated;
use super::tensors::Random;

/// Rows or columns of two numbers, each put where its index says; the last of those with one index.
fn scatters(device: &Device, axis: usize, places: &[usize], size: usize, what: &str) {
    let shape = |n: usize| if axis == 0 { [n, 2] } else { [2, n] };
    let out = Tensor::<i32, 2>::zeros(device, shape(size)).unwrap();
    let value = |slice: usize, i: usize| (2 * slice + i + 1) as i32;
    let src = Tensor::from_fn(device, shape(places.len()), |at| value(at[axis], at[1 - axis]));
    let indices: Vec<i64> = places.iter().map(|&place| place as i64).collect();
    let indices = Tensor::from_host(device, [places.len()], &indices).unwrap();
    out.scatter_from(axis, &indices, &src.unwrap()).unwrap();
    let mut expected = vec![0; 2 * size];
    for (slice, &place) in places.iter().enumerate() {
        for i in 0..2 {
            expected[if axis == 0 { 2 * place + i } else { i * size + place }] = value(slice, i);
        }
    }
    assert!(out.to_vec().unwrap() == expected, "{what}");
}

#[test]
fn of_slices_with_one_index_the_last_one_stays() {
    let seed = Config::default().seed;
    let mut random = Random(seed);
    for device in [Arch::SM90A, Arch::SM121A].into_iter().filter_map(emulated) {
        for (axis, few) in [(0, 256), (1, 32_usize)] {
            for slices in [1, 2, few - 1, few, few + 1, 2 * few, 700] {
                // Nearly each alone, several together, all in one place.
                for size in [4 * slices, slices.div_ceil(3), 1] {
                    let places: Vec<usize> = (0..slices).map(|_| random.below(size)).collect();
                    let what = format!("seed {seed}: {slices} of {size}, dimension {axis}");
                    scatters(&device, axis, &places, size, &what);
                }
            }
            // Places far apart, many times as many as slices.
            let places: Vec<usize> = (0..300).map(|i| i % 100 * 1024).collect();
            scatters(&device, axis, &places, 100 * 1024, &format!("dimension {axis}"));
        }
    }
}

#[test]
fn the_first_index_astray_of_many_is_named() {
    let Some(device) = emulated(Arch::SM121A) else { return };
    for (slices, astray) in [(200, [7, 9]), (1000, [400, 999])] {
        let out = Tensor::<f32, 2>::zeros(&device, [100, 2]).unwrap();
        let indices = Tensor::from_fn(&device, [slices], |[i]| match astray.contains(&i) {
            true => 100 + i as i32,
            false => (i % 100) as i32,
        });
        let src = Tensor::<f32, 2>::zeros(&device, [slices, 2]).unwrap();
        out.scatter_from(0, &indices.unwrap(), &src).unwrap();
        let error = out.to_vec().unwrap_err();
        assert!(matches!(error, Error::Value { .. }), "{error:?}");
        assert!(error.to_string().contains(&format!("element {}", astray[0])), "{error}");
    }
}
