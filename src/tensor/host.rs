//! Guards through which host code reads and writes elements.

use std::marker::PhantomData;
use std::ops::{Index, IndexMut};

use super::dense::Tensor;
use crate::error::{Error, Result};
use crate::memory::{RegionView, WriteGuard};
use crate::num::Element;

/// Where each element lies, from the first element on.
#[derive(Clone, Copy, Debug)]
struct Strided<const R: usize> {
    shape: [usize; R],
    strides: [usize; R],
}

impl<const R: usize> Strided<R> {
    fn offset(&self, index: [usize; R]) -> usize {
        for axis in 0..R {
            assert!(
                index[axis] < self.shape[axis],
                "index {index:?} is out of bounds for shape {:?}",
                self.shape
            );
        }
        index.iter().zip(&self.strides).map(|(i, s)| i * s).sum()
    }

    fn indices(self) -> impl Iterator<Item = [usize; R]> {
        indices(self.shape)
    }
}

/// All indices in row-major order.
pub(super) fn indices<const R: usize>(shape: [usize; R]) -> impl Iterator<Item = [usize; R]> {
    let mut next = (!shape.contains(&0)).then_some([0usize; R]);
    std::iter::from_fn(move || {
        let index = next?;
        let mut following = index;
        next = None;
        for axis in (0..R).rev() {
            following[axis] += 1;
            if following[axis] < shape[axis] {
                next = Some(following);
                break;
            }
            following[axis] = 0;
        }
        Some(index)
    })
}

/// The elements of a tensor, borrowed by the host. Index it with `[[i, j]]`.
///
/// While it lives, operations that write the bytes fail with [`Error::Busy`].
pub struct HostView<'a, E: Element, const R: usize> {
    bytes: RegionView<'a>,
    layout: Strided<R>,
    contiguous: bool,
    element: PhantomData<E>,
}

impl<'a, E: Element, const R: usize> HostView<'a, E, R> {
    pub(super) fn new(tensor: &'a Tensor<E, R>) -> Result<Self> {
        Ok(Self::of(tensor, tensor.region.host()?))
    }

    /// The same of a copy, where the host can not touch the memory.
    pub(super) fn copied(tensor: &'a Tensor<E, R>) -> Result<Self> {
        Ok(Self::of(tensor, tensor.region.to_host()?))
    }

    fn of(tensor: &Tensor<E, R>, bytes: RegionView<'a>) -> Self {
        HostView {
            bytes,
            layout: Strided { shape: tensor.shape, strides: tensor.strides },
            contiguous: tensor.dense().is_contiguous(),
            element: PhantomData,
        }
    }

    /// All elements from the first to the last, gaps included.
    pub(super) fn span(&self) -> &[E] {
        // Alignment and length were checked when the tensor was made.
        bytemuck::cast_slice(&self.bytes)
    }

    /// The elements in row-major order as one slice, or `None` where they are not contiguous.
    pub fn as_slice(&self) -> Option<&[E]> {
        self.contiguous.then(|| self.span())
    }

    /// The element at an index, or `None` out of bounds.
    pub fn get(&self, index: [usize; R]) -> Option<E> {
        let inside = index.iter().zip(&self.layout.shape).all(|(i, d)| i < d);
        inside.then(|| self[index])
    }

    /// The elements in row-major order.
    pub fn iter(&self) -> impl Iterator<Item = E> + '_ {
        let span = self.span();
        self.layout.indices().map(move |index| span[self.layout.offset(index)])
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> [usize; R] {
        self.layout.shape
    }

    /// Strides in elements, outermost first.
    pub fn strides(&self) -> [usize; R] {
        self.layout.strides
    }
}

impl<E: Element, const R: usize> Index<[usize; R]> for HostView<'_, E, R> {
    type Output = E;

    /// # Panics
    /// When the index is out of bounds, as indexing does; [`HostView::get`] does not.
    fn index(&self, index: [usize; R]) -> &E {
        &self.span()[self.layout.offset(index)]
    }
}

/// The elements of a tensor, borrowed mutably by the host. Index it with `[[i, j]]`.
///
/// While it lives, operations that use the bytes fail with [`Error::Busy`].
pub struct HostViewMut<'a, E: Element, const R: usize> {
    guard: WriteGuard<'a>,
    bytes: std::ops::Range<usize>,
    layout: Strided<R>,
    contiguous: bool,
    element: PhantomData<E>,
}

impl<'a, E: Element, const R: usize> HostViewMut<'a, E, R> {
    pub(super) fn new(tensor: &'a Tensor<E, R>) -> Result<Self> {
        let dense = tensor.dense();
        if dense.overlaps_itself() {
            return Err(Error::layout(
                "host_mut",
                "tensor",
                format!("{dense} reaches some element twice; write into a copy"),
            ));
        }
        Ok(HostViewMut {
            guard: tensor.region.buffer().write()?,
            bytes: tensor.region.range(),
            layout: Strided { shape: tensor.shape, strides: tensor.strides },
            contiguous: dense.is_contiguous(),
            element: PhantomData,
        })
    }

    pub(super) fn span(&self) -> &[E] {
        bytemuck::cast_slice(&self.guard[self.bytes.clone()])
    }

    pub(super) fn span_mut(&mut self) -> &mut [E] {
        bytemuck::cast_slice_mut(&mut self.guard[self.bytes.clone()])
    }

    /// The elements in row-major order as one slice, or `None` where they are not contiguous.
    pub fn as_mut_slice(&mut self) -> Option<&mut [E]> {
        if self.contiguous { Some(self.span_mut()) } else { None }
    }

    /// Calls `f` with each index and its element, in row-major order.
    pub fn for_each_mut(&mut self, mut f: impl FnMut([usize; R], &mut E)) {
        let layout = self.layout;
        let span = self.span_mut();
        for index in layout.indices() {
            f(index, &mut span[layout.offset(index)]);
        }
    }

    /// Sizes, outermost first.
    pub fn shape(&self) -> [usize; R] {
        self.layout.shape
    }

    /// Strides in elements, outermost first.
    pub fn strides(&self) -> [usize; R] {
        self.layout.strides
    }
}

impl<E: Element, const R: usize> Index<[usize; R]> for HostViewMut<'_, E, R> {
    type Output = E;

    /// # Panics
    /// When the index is out of bounds, as indexing does.
    fn index(&self, index: [usize; R]) -> &E {
        &self.span()[self.layout.offset(index)]
    }
}

impl<E: Element, const R: usize> IndexMut<[usize; R]> for HostViewMut<'_, E, R> {
    /// # Panics
    /// When the index is out of bounds, as indexing does.
    fn index_mut(&mut self, index: [usize; R]) -> &mut E {
        let offset = self.layout.offset(index);
        &mut self.span_mut()[offset]
    }
}
