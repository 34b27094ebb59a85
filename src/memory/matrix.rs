//! Matrices that threads write together, each its own rows and columns.

use std::any::TypeId;
use std::marker::PhantomData;

/// Rows of `width` values that may be written, `stride` apart.
///
/// As `&mut [T]`, but of the values in those rows only: what lies between them is not of it, and it
/// can be cut across rows.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a, T> {
    /// Where row i has its value j, at `i · stride + j`, this and nothing else borrows it for `'a`.
    first: *mut T,
    rows: usize,
    width: usize,
    stride: usize,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: it is an exclusive borrow of its values, as `&mut [T]` is.
unsafe impl<T: Send> Send for MatrixMut<'_, T> {}

impl<'a, T> MatrixMut<'a, T> {
    /// The first rows of `values`; `None` where they overlap, or reach past its end.
    pub(crate) fn new(
        values: &'a mut [T],
        (rows, width): (usize, usize),
        stride: usize,
    ) -> Option<Self> {
        let last = rows.saturating_sub(1);
        let reach = if rows == 0 { 0 } else { last.checked_mul(stride)?.checked_add(width)? };
        let fits = reach <= values.len() && (last == 0 || width <= stride);
        let first = values.as_mut_ptr();
        fits.then_some(MatrixMut { first, rows, width, stride, values: PhantomData })
    }

    /// As many rows as `values` holds, one after the other.
    pub(crate) fn packed(values: &'a mut [T], width: usize) -> Self {
        let rows = values.len().checked_div(width).unwrap_or(0);
        MatrixMut { first: values.as_mut_ptr(), rows, width, stride: width, values: PhantomData }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// From one row to the next.
    pub(crate) fn stride(&self) -> usize {
        self.stride
    }

    /// The first value, if there is one.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.first
    }

    /// A row.
    ///
    /// # Panics
    /// Where there are not so many.
    pub(crate) fn row(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: the values of a row, which this borrows.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(i * self.stride), self.width) }
    }

    /// The same for a shorter time.
    pub(crate) fn reborrow(&mut self) -> MatrixMut<'_, T> {
        MatrixMut { values: PhantomData, ..*self }
    }

    /// The rows before `at`, and those from it on.
    ///
    /// # Panics
    /// Where there are not so many.
    pub(crate) fn split_rows(self, at: usize) -> (Self, Self) {
        assert!(at <= self.rows, "{at} of {} rows", self.rows);
        let first = self.first.wrapping_add(at * self.stride);
        let later = MatrixMut { first, rows: self.rows - at, ..self };
        (MatrixMut { rows: at, ..self }, later)
    }

    /// The columns before `at`, and those from it on.
    ///
    /// # Panics
    /// Where there are not so many.
    pub(crate) fn split_columns(self, at: usize) -> (Self, Self) {
        assert!(at <= self.width, "{at} of {} columns", self.width);
        let first = self.first.wrapping_add(at);
        let later = MatrixMut { first, width: self.width - at, ..self };
        (MatrixMut { width: at, ..self }, later)
    }

    /// The same, where `U` is the type of its values.
    pub(crate) fn of_type<U: 'static>(&mut self) -> Option<MatrixMut<'_, U>>
    where
        T: 'static,
    {
        let MatrixMut { first, rows, width, stride, .. } = *self;
        (TypeId::of::<T>() == TypeId::of::<U>()).then_some(MatrixMut {
            first: first.cast(),
            rows,
            width,
            stride,
            values: PhantomData,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_inside_their_slice_that_do_not_overlap_are_a_matrix() {
        let mut values = [0u8; 10];
        let mut fits = |sizes, stride| MatrixMut::new(&mut values, sizes, stride).is_some();
        assert!(fits((3, 2), 4) && fits((2, 5), 5) && fits((1, 10), 0) && fits((0, 99), 99));
        assert!(!fits((3, 3), 4), "past the end");
        assert!(!fits((3, 3), 2), "overlapping");
        assert!(!fits((3, 1), usize::MAX) && !fits((2, usize::MAX), 1), "past all numbers");
    }

    #[test]
    fn parts_cover_a_matrix_and_nothing_between_its_rows() {
        let mut values = [0; 4 * 7];
        let matrix = MatrixMut::new(&mut values, (4, 5), 7).unwrap();
        let (upper, lower) = matrix.split_rows(1);
        let (left, right) = lower.split_columns(2);
        let mut parts = [upper, left, right];
        assert_eq!(parts.each_ref().map(|p| (p.rows(), p.width())), [(1, 5), (3, 2), (3, 3)]);
        std::thread::scope(|scope| {
            for (part, salt) in parts.iter_mut().zip(1..) {
                scope.spawn(move || {
                    (0..part.rows()).for_each(|i| part.reborrow().row(i).fill(salt));
                });
            }
        });
        assert_eq!(values[..7], [1, 1, 1, 1, 1, 0, 0]);
        for row in values.chunks(7).skip(1) {
            assert_eq!(row, [2, 2, 3, 3, 3, 0, 0]);
        }
    }

    #[test]
    fn a_matrix_is_cut_at_its_ends() {
        let mut values = [1; 6];
        let (none, all) = MatrixMut::packed(&mut values, 3).split_rows(0);
        let (all, below) = all.split_rows(2);
        let (mut all, right) = all.split_columns(3);
        assert_eq!((none.rows(), below.rows(), right.width()), (0, 0, 0));
        assert_eq!((all.rows(), all.row(1).len()), (2, 3));
        assert_eq!(MatrixMut::packed(&mut [0; 5], 0).rows(), 0);
    }

    #[test]
    fn values_are_seen_as_their_own_type_only() {
        let mut values = [0f32; 6];
        let mut matrix = MatrixMut::packed(&mut values, 3);
        assert!(matrix.of_type::<u32>().is_none());
        matrix.of_type::<f32>().unwrap().row(1)[2] = 7.0;
        assert_eq!(values[5], 7.0);
    }

    #[test]
    #[should_panic(expected = "row 2 of 2")]
    fn a_row_that_is_not_there_is_refused() {
        MatrixMut::packed(&mut [0; 6], 3).row(2);
    }
}
