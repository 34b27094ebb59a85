//! Vectors of f32: one register of a level, and work that is compiled for each level.

#[cfg(target_arch = "x86_64")]
use super::per_level::compiled_for;
use super::{LANES, Level};

/// f32 values in one register.
pub(super) trait Lanes: Copy {
    /// How many: a divisor of [`LANES`], at least a quarter of it.
    const WIDTH: usize;

    fn splat(x: f32) -> Self;

    /// # Safety
    /// `from` is valid for reading `WIDTH` values.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// `to` is valid for writing `WIDTH` values.
    unsafe fn store(self, to: *mut f32);

    /// Asks for the cache line at an address, which need not be valid, in the second-level cache.
    fn prefetch(_address: *const u8) {}

    /// The same for the first-level cache.
    fn prefetch_near(_address: *const u8) {}

    /// `self + a · b`, fused where the level has that.
    fn add_product(self, a: Self, b: Self) -> Self;

    fn add(self, other: Self) -> Self;

    fn mul(self, other: Self) -> Self;

    /// `other` where it is larger, else `self`: a NaN of `other` is passed over.
    fn max(self, other: Self) -> Self;

    /// [`exp2`](super::math::exp2) of what is not above 0, of some vectors at once.
    fn exp2<const N: usize>(vectors: [Self; N]) -> [Self; N];

    /// Any NaN as the one that [`f32::NAN`] is.
    fn one_nan(self) -> Self;

    /// Joins the lanes of each vector by halves: a value of each.
    fn across(vectors: &[Self; SUMS], f: impl Fn(Self, Self) -> Self) -> [f32; SUMS];

    /// Adds up the lanes of each vector by halves, and puts the sums at `to`, one after the other:
    /// in the place of what is there, or added to it.
    ///
    /// # Safety
    /// `to` is valid for reading and writing `N` values.
    unsafe fn add_up<const N: usize>(vectors: &[Self; N], to: *mut f32, add: bool);
}

/// Most vectors that are added up together.
pub(super) const SUMS: usize = 8;

/// Puts sums at `to`, or adds them to what is there.
///
/// # Safety
/// `to` is valid for reading and writing as many values.
#[inline(always)]
pub(super) unsafe fn put(sums: &[f32], to: *mut f32, add: bool) {
    for (j, &sum) in sums.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            let to = to.add(j);
            let sum = if add { *to + sum } else { sum };
            // Which NaN comes out would depend on the order of commutative operands.
            *to = if sum.is_nan() { f32::NAN } else { sum };
        }
    }
}

/// [`LANES`] values, whatever a register holds.
#[derive(Clone, Copy)]
pub(super) struct Whole<V>([V; 4]);

impl<V: Lanes> Whole<V> {
    /// Registers that hold them.
    pub(super) const PARTS: usize = LANES / V::WIDTH;

    #[inline(always)]
    pub(super) fn splat(x: f32) -> Self {
        Whole([V::splat(x); 4])
    }

    /// # Safety
    /// `from` is valid for reading [`LANES`] values.
    #[inline(always)]
    pub(super) unsafe fn load(from: *const f32) -> Self {
        let mut parts = [V::splat(0.0); 4];
        for (i, part) in parts[..Self::PARTS].iter_mut().enumerate() {
            // SAFETY: part i of the values.
            *part = unsafe { V::load(from.add(i * V::WIDTH)) };
        }
        Whole(parts)
    }

    #[inline(always)]
    pub(super) fn join(mut self, other: Self, f: impl Fn(V, V) -> V) -> Self {
        for (x, y) in self.0[..Self::PARTS].iter_mut().zip(other.0) {
            *x = f(*x, y);
        }
        self
    }

    /// Adds to what vector `i` of some that follow each other is a part of.
    #[inline(always)]
    pub(super) fn add(&mut self, i: usize, vector: V) {
        let part = &mut self.0[i % Self::PARTS];
        *part = part.add(vector);
    }

    /// All parts joined to one, by halves.
    #[inline(always)]
    pub(super) fn fold(self, f: impl Fn(V, V) -> V) -> V {
        let [a, b, c, d] = self.0;
        match Self::PARTS {
            1 => a,
            2 => f(a, b),
            _ => f(f(a, c), f(b, d)),
        }
    }
}

/// Work that is compiled for each level.
pub(super) trait Work {
    /// Does it, with the level's vectors. To be inlined.
    ///
    /// # Safety
    /// The level of `V` is present, and what the work itself asks for.
    unsafe fn run<V: Lanes>(self);
}

/// Does some work with the vectors of a level.
///
/// # Safety
/// What the work asks for.
pub(super) unsafe fn at(level: Level, work: impl Work) {
    #[cfg(target_arch = "x86_64")]
    compiled_for! {
        avx2: unsafe fn avx2(work: impl Work) {
            // SAFETY: the caller's promise.
            unsafe { work.run::<super::x86::Avx2>() }
        }
    }

    #[cfg(target_arch = "x86_64")]
    compiled_for! {
        avx512: unsafe fn avx512(work: impl Work) {
            // SAFETY: the caller's promise.
            unsafe { work.run::<super::x86::Avx512>() }
        }
    }

    // SAFETY: `Level::of` gives a level only where its instructions were detected; the rest is the
    // caller's promise.
    unsafe {
        match level {
            Level::Portable => work.run::<super::portable::Four>(),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => avx2(work),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Vbmi => avx512(work),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => work.run::<super::neon::Neon>(),
        }
    }
}
