//! Tensors laid side by side.

use ferrocerium::{Device, Tensor};
use proptest::prelude::*;

use crate::ops::{error, says};

proptest! {
    #[test]
    fn splitting_undoes_concatenation(
        shape in prop::array::uniform3(0usize..4),
        sizes in prop::collection::vec(0usize..4, 1..5),
        axis in 0usize..3,
        flipped: bool,
    ) {
        let device = Device::reference();
        let piece = |(at, &size): (usize, &usize)| {
            let mut shape = shape;
            shape[axis] = size;
            let f = |[i, j, k]: [usize; 3]| (at * 1000 + i * 100 + j * 10 + k) as i64;
            if !flipped {
                return Tensor::from_fn(&device, shape, f).unwrap();
            }
            // The same elements with the strides of a transpose.
            shape.swap(0, 2);
            Tensor::from_fn(&device, shape, |[k, j, i]| f([i, j, k])).unwrap().transpose(0, 2).unwrap()
        };
        let pieces: Vec<Tensor<i64, 3>> = sizes.iter().enumerate().map(piece).collect();
        let joined = Tensor::concat(axis, &pieces.iter().collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(joined.shape()[axis], sizes.iter().sum::<usize>());
        prop_assert!(joined.is_contiguous());
        for (part, piece) in joined.split(axis, &sizes).unwrap().iter().zip(&pieces) {
            prop_assert_eq!(part.shape(), piece.shape());
            prop_assert_eq!(part.to_vec().unwrap(), piece.to_vec().unwrap());
        }
    }

    #[test]
    fn selecting_undoes_stacking(
        shape in prop::array::uniform2(0usize..4),
        n in 1usize..4,
        axis in 0usize..3,
    ) {
        let device = Device::reference();
        let piece = |at| Tensor::from_fn(&device, shape, |[i, j]| (at * 100 + i * 10 + j) as u8).unwrap();
        let pieces: Vec<Tensor<u8, 2>> = (0..n).map(piece).collect();
        let stacked: Tensor<u8, 3> = Tensor::stack(axis, &pieces.iter().collect::<Vec<_>>()).unwrap();
        prop_assert_eq!(stacked.shape()[axis], n);
        for (at, piece) in pieces.iter().enumerate() {
            let part: Tensor<u8, 2> = stacked.select(axis, at).unwrap();
            prop_assert_eq!(part.to_vec().unwrap(), piece.to_vec().unwrap());
        }
    }
}

#[test]
fn what_does_not_fit_together_is_refused_by_name() {
    let device = Device::reference();
    let zeros = |shape| Tensor::<f32, 2>::zeros(&device, shape).unwrap();
    let (a, b) = (zeros([2, 3]), zeros([2, 4]));
    says(&error(Tensor::<f32, 2>::concat(0, &[])), &["concat", "there are none"]);
    says(&error(Tensor::<f32, 2>::stack::<3>(0, &[])), &["stack", "there are none"]);
    says(&error(Tensor::concat(2, &[&a])), &["concat", "2 is not one of"]);
    let message = error(Tensor::concat(0, &[&a, &b]));
    says(&message, &["concat", "tensor 1 is [2, 4]", "tensor 0 is [2, 3]", "dimension 0"]);
    says(&error(Tensor::stack::<3>(0, &[&a, &b])), &["stack", "[2, 4]", "[2, 3]", "not equal"]);
    says(&error(Tensor::stack::<3>(3, &[&a])), &["unsqueeze", "before 3"]);
    let elsewhere = Tensor::<f32, 2>::zeros(&Device::cpu(), [2, 3]).unwrap();
    says(&error(Tensor::concat(0, &[&a, &elsewhere])), &["reference and cpu"]);
    let endless = zeros([usize::MAX, 0]);
    says(&error(Tensor::concat(0, &[&endless, &endless])), &["concat", "usize"]);
}
