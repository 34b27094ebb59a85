//! Views against a model that maps every index.

use ferrocerium::memory::{Buffer, Pool};
use ferrocerium::{Device, Tensor};
use proptest::prelude::*;

use crate::ops::{error, says};

/// What a view of rank 3 must hold.
#[derive(Clone, Debug)]
struct Model {
    shape: [usize; 3],
    data: Vec<i32>,
}

impl Model {
    fn from_fn(shape: [usize; 3], f: impl Fn([usize; 3]) -> i32) -> Self {
        let mut data = Vec::new();
        for i in 0..shape[0] {
            for j in 0..shape[1] {
                for k in 0..shape[2] {
                    data.push(f([i, j, k]));
                }
            }
        }
        Model { shape, data }
    }

    fn get(&self, [i, j, k]: [usize; 3]) -> i32 {
        self.data[(i * self.shape[1] + j) * self.shape[2] + k]
    }
}

/// One change of view; the numbers are taken modulo what is there.
#[derive(Clone, Debug)]
enum Step {
    Permute([usize; 3]),
    Transpose(usize, usize),
    Slice(usize, usize, usize),
    /// Drops a dimension at an index and adds one of size 1 elsewhere.
    Select(usize, usize, usize),
    /// Repeats a dimension of size 1.
    Broadcast(usize, usize),
    /// Swaps the outer two sizes, where the elements are contiguous.
    Reshape,
    /// The second of two pieces.
    Split(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just([0, 1, 2]).prop_shuffle().prop_map(Step::Permute),
        (0..3usize, 0..3usize).prop_map(|(a, b)| Step::Transpose(a, b)),
        (0..3usize, 0..9usize, 0..9usize).prop_map(|(a, s, e)| Step::Slice(a, s, e)),
        (0..3usize, 0..9usize, 0..3usize).prop_map(|(a, i, n)| Step::Select(a, i, n)),
        (0..3usize, 0..4usize).prop_map(|(a, n)| Step::Broadcast(a, n)),
        Just(Step::Reshape),
        (0..3usize, 0..9usize).prop_map(|(a, n)| Step::Split(a, n)),
    ]
}

fn apply(step: &Step, tensor: &Tensor<i32, 3>, model: &Model) -> (Tensor<i32, 3>, Model) {
    let shape = model.shape;
    match *step {
        Step::Permute(axes) => {
            let view = tensor.permute(axes).unwrap();
            let moved = |index: [usize; 3]| {
                let mut old = [0; 3];
                for i in 0..3 {
                    old[axes[i]] = index[i];
                }
                model.get(old)
            };
            (view, Model::from_fn(axes.map(|a| shape[a]), moved))
        }
        Step::Transpose(a, b) => {
            let mut swapped = shape;
            swapped.swap(a, b);
            let moved = |mut index: [usize; 3]| {
                index.swap(a, b);
                model.get(index)
            };
            (tensor.transpose(a, b).unwrap(), Model::from_fn(swapped, moved))
        }
        Step::Slice(axis, s, e) => {
            let (s, e) = (s % (shape[axis] + 1), e % (shape[axis] + 1));
            let (start, end) = (s.min(e), s.max(e));
            let mut cut = shape;
            cut[axis] = end - start;
            let moved = |mut index: [usize; 3]| {
                index[axis] += start;
                model.get(index)
            };
            (tensor.slice(axis, start..end).unwrap(), Model::from_fn(cut, moved))
        }
        Step::Select(axis, at, new) if shape[axis] > 0 => {
            let at = at % shape[axis];
            let view: Tensor<i32, 2> = tensor.select(axis, at).unwrap();
            let mut rest = shape.to_vec();
            rest.remove(axis);
            rest.insert(new, 1);
            let moved = |index: [usize; 3]| {
                let mut old = index.to_vec();
                old.remove(new);
                old.insert(axis, at);
                model.get([old[0], old[1], old[2]])
            };
            let view = view.unsqueeze(new).unwrap();
            (view, Model::from_fn([rest[0], rest[1], rest[2]], moved))
        }
        Step::Broadcast(axis, n) if shape[axis] == 1 => {
            let mut wide = shape;
            wide[axis] = n;
            let moved = |mut index: [usize; 3]| {
                index[axis] = 0;
                model.get(index)
            };
            (tensor.broadcast_to(wide).unwrap(), Model::from_fn(wide, moved))
        }
        Step::Reshape if tensor.is_contiguous() => {
            let shape = [shape[1], shape[0], shape[2]];
            (tensor.reshape(shape).unwrap(), Model { shape, data: model.data.clone() })
        }
        Step::Split(axis, n) => {
            let first = n % (shape[axis] + 1);
            let pieces = tensor.split(axis, &[first, shape[axis] - first]).unwrap();
            let mut cut = shape;
            cut[axis] -= first;
            let moved = |mut index: [usize; 3]| {
                index[axis] += first;
                model.get(index)
            };
            (pieces[1].clone(), Model::from_fn(cut, moved))
        }
        _ => (tensor.clone(), model.clone()),
    }
}

proptest! {
    #[test]
    fn any_chain_of_views_holds_what_the_model_holds(
        shape in prop::array::uniform3(0usize..5),
        steps in prop::collection::vec(step(), 0..8),
    ) {
        let device = Device::reference();
        let number = |[i, j, k]: [usize; 3]| (i * 100 + j * 10 + k) as i32;
        let mut tensor = Tensor::from_fn(&device, shape, number).unwrap();
        let mut model = Model::from_fn(shape, number);
        for step in &steps {
            (tensor, model) = apply(step, &tensor, &model);
        }
        prop_assert_eq!(tensor.shape(), model.shape);
        prop_assert_eq!(tensor.len(), model.data.len());
        prop_assert_eq!(tensor.is_empty(), model.data.is_empty());
        prop_assert_eq!(&tensor.to_vec().unwrap(), &model.data);

        let host = tensor.host().unwrap();
        let indices = Model::from_fn(model.shape, |index| {
            assert_eq!(host[index], model.get(index));
            assert_eq!(host.get(index), Some(model.get(index)));
            0
        });
        prop_assert_eq!(indices.data.len(), model.data.len());
        prop_assert_eq!(host.get(model.shape), None);
        prop_assert_eq!(host.as_slice().is_some(), tensor.is_contiguous());
        if let Some(slice) = host.as_slice() {
            prop_assert_eq!(slice, &model.data[..]);
        }

        let copy = tensor.contiguous().unwrap();
        prop_assert!(copy.is_contiguous());
        prop_assert_eq!(&copy.to_vec().unwrap(), &model.data);
    }

    #[test]
    fn writing_through_a_view_changes_what_it_covers_and_nothing_else(
        shape in prop::array::uniform3(1usize..5),
        steps in prop::collection::vec(step(), 0..6),
    ) {
        let device = Device::reference();
        let base = Tensor::<i32, 3>::zeros(&device, shape).unwrap();
        let number = |[i, j, k]: [usize; 3]| ((i * shape[1] + j) * shape[2] + k) as i32;
        let (mut view, mut model) = (base.clone(), Model::from_fn(shape, number));
        for step in steps.iter().filter(|s| !matches!(s, Step::Broadcast(..))) {
            (view, model) = apply(step, &view, &model);
        }
        view.host_mut().unwrap().for_each_mut(|_, x| *x += 1);
        let touched = base.to_vec().unwrap();
        for (position, touched) in touched.into_iter().enumerate() {
            prop_assert_eq!(touched == 1, model.data.contains(&(position as i32)));
        }
        let other = Tensor::full(&device, view.shape(), 7).unwrap();
        view.copy_from(&other).unwrap();
        let sevens = base.to_vec().unwrap().into_iter().filter(|x| *x == 7).count();
        prop_assert_eq!(sevens, model.data.len());
    }
}

#[test]
fn broadcasting_adds_leading_dimensions() {
    let row = Tensor::from_host(&Device::reference(), [2], &[1, 2]).unwrap();
    let wide = row.broadcast_to([2, 3, 2]).unwrap();
    assert_eq!(wide.strides(), [0, 0, 1]);
    assert_eq!(wide.to_vec().unwrap(), [1, 2].repeat(6));
    says(&error(row.broadcast_to([2, 3])), &["broadcast_to", "[2] does not", "[2, 3]"]);
    says(&error(wide.broadcast_to([2])), &["[2, 3, 2] does not", "[2]"]);
    says(&error(wide.host_mut()), &["host_mut", "strides [0, 0, 1]", "twice", "copy"]);
}

#[test]
fn a_view_that_can_not_be_is_refused_by_name() {
    let x = Tensor::<i32, 3>::zeros(&Device::reference(), [2, 3, 4]).unwrap();
    says(&error(x.permute([0, 1, 3])), &["permute", "axis", "3 is not one of", "3 dimensions"]);
    says(&error(x.permute([0, 1, 1])), &["permute", "[0, 1, 1] names 1 twice"]);
    says(&error(x.transpose(0, 3)), &["transpose", "3 is not one of"]);
    says(&error(x.slice(3, 0..1)), &["slice", "axis", "3 is not one of"]);
    says(&error(x.slice(1, 2..4)), &["slice", "2..4", "0..3", "dimension 1 of [2, 3, 4]"]);
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 2..1;
    says(&error(x.slice(1, backwards)), &["slice", "2..1", "0..3"]);
    says(&error(x.split(1, &[1, 1])), &["split", "[1, 1]", "add up to 3", "[2, 3, 4]"]);
    says(&error(x.split(1, &[usize::MAX, 4])), &["split", "add up to 3"]);
    says(&error(x.reshape([5, 5])), &["reshape", "[5, 5] has 25", "[2, 3, 4] has 24"]);
    says(&error(x.reshape([usize::MAX, 2])), &["reshape", "more bytes than can be addressed"]);
    let strided = x.transpose(0, 1).unwrap();
    says(&error(strided.reshape([24])), &["reshape", "[4, 12, 1]", "contiguous()"]);
    says(&error(x.select::<2>(1, 3)), &["select", "index 3 of dimension 1", "[2, 3, 4]"]);
    says(&error(x.select::<2>(3, 0)), &["select", "3 is not one of"]);
    says(&error(x.select::<1>(0, 0)), &["select", "1 dimensions"]);
    says(&error(x.unsqueeze::<4>(4)), &["unsqueeze", "before 4", "[2, 3, 4]"]);
    says(&error(x.unsqueeze::<3>(0)), &["unsqueeze", "as a tensor of 3"]);
}

#[test]
fn sizes_that_can_not_be_addressed_are_refused_before_any_allocation() {
    let device = Device::reference();
    let huge = [usize::MAX, 2];
    says(&error(Tensor::<u8, 2>::zeros(&device, huge)), &["zeros", "addressed"]);
    let bytes = [usize::MAX / 4, 1];
    says(&error(Tensor::<f64, 2>::zeros(&device, bytes)), &["zeros", "addressed"]);
    says(&error(Tensor::from_host(&device, huge, &[1u8])), &["from_host", "addressed"]);
    assert_eq!(device.memory().peak, 0);
}

#[test]
fn sizes_beside_a_zero_can_be_anything() {
    let device = Device::reference();
    let x = Tensor::<f32, 3>::zeros(&device, [usize::MAX, usize::MAX, 0]).unwrap();
    assert_eq!((x.len(), x.is_empty(), x.is_contiguous()), (0, true, true));
    assert!(x.to_vec().unwrap().is_empty());
    assert_eq!(x.host().unwrap().as_slice(), Some(&[0.0f32; 0][..]));
    let part = x.slice(0, usize::MAX - 1..usize::MAX).unwrap();
    assert_eq!(part.shape(), [1, usize::MAX, 0]);
    let part: Tensor<f32, 2> = x.select(1, usize::MAX - 1).unwrap();
    assert!(part.to_vec().unwrap().is_empty());
    assert_eq!(x.reshape([0, 7]).unwrap().shape(), [0, 7]);
    assert_eq!(x.permute([2, 0, 1]).unwrap().copy().unwrap().len(), 0);
    assert!(format!("{x:?}").contains("[18446744073709551615, 18446744073709551615, 0] f32"));
}

#[test]
fn strides_reach_into_a_buffer_and_never_past_it() {
    let device = Device::reference();
    let pool = Pool::new("test", 1 << 20);
    let buffer = || Buffer::host(&pool, 64, "strided").unwrap();
    buffer().write().unwrap().fill(1);
    // The last element of [2, 3] with strides [8, 2] is at 12: 13 elements, 52 bytes.
    let strided = |offset, strides| {
        Tensor::<f32, 2>::from_buffer_strided(&device, buffer(), offset, [2, 3], strides)
    };
    assert!(strided(12, [8, 2]).is_ok());
    says(&error(strided(16, [8, 2])), &["52 bytes from 16", "64 bytes", "`strided`"]);
    says(&error(strided(0, [usize::MAX, 1])), &["strides", "reach past a usize"]);
    says(&error(strided(0, [usize::MAX / 8, 1])), &["from_buffer", "addressed"]);
    says(&error(strided(2, [3, 1])), &["offset", "2 is not a multiple of 4", "f32", "copy"]);
    let whole = Tensor::<f32, 1>::from_buffer(&device, buffer(), 4, [15]).unwrap();
    assert_eq!(whole.region().len(), 60);
    says(&error(Tensor::<f32, 1>::from_buffer(&device, buffer(), 8, [15])), &["60 bytes from 8"]);
    says(&error(Tensor::<u8, 1>::from_buffer(&device, buffer(), usize::MAX, [2])), &["past"]);
    // Overlapping strides are fine to read.
    let windows = Tensor::<u8, 2>::from_buffer_strided(&device, buffer(), 0, [62, 3], [1, 1]);
    assert_eq!(windows.unwrap().to_vec().unwrap().len(), 186);
}

#[test]
fn the_transpose_of_a_matrix_swaps_its_indices() {
    let x = Tensor::from_host(&Device::reference(), [2, 3], &[1, 2, 3, 4, 5, 6]).unwrap();
    assert_eq!(x.t().shape(), [3, 2]);
    assert_eq!(x.t().to_vec().unwrap(), [1, 4, 2, 5, 3, 6]);
    assert!(x.t().t().is_contiguous());
}
