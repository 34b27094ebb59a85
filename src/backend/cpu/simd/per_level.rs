//! Loops that are compiled once for each level.
//!
//! A loop whose body has no branches needs no intrinsics: compiled with a level's instructions
//! switched on, it uses them.

/// Whether a multiply-add without further instruction sets is one instruction.
pub(super) const BASELINE_FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// A function, compiled with the instructions of a level: the one place that names them.
macro_rules! compiled_for {
    (portable: $($function:tt)*) => { $($function)* };
    (avx2: $($function:tt)*) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        $($function)*
    };
    (avx512: $($function:tt)*) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
        $($function)*
    };
    (avx512vnni: $($function:tt)*) => {
        #[target_feature(
            enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi,avx2,fma,f16c"
        )]
        $($function)*
    };
    // Part of the architecture.
    (neon: $($function:tt)*) => { $($function)* };
    (dotprod: $($function:tt)*) => {
        #[target_feature(enable = "dotprod")]
        $($function)*
    };
    (i8mm: $($function:tt)*) => {
        #[target_feature(enable = "i8mm")]
        $($function)*
    };
}
pub(super) use compiled_for;

/// Defines functions that take the level as their first argument and run their body as compiled
/// for it. In the body the constant `FUSED` says whether the level has fused multiply-add: the
/// functions of [`super::math`] take it. What the body calls in a loop must be
/// `#[inline(always)]`.
macro_rules! per_level {
    ($(
        $(#[$attribute:meta])*
        $vis:vis fn $name:ident $(<$E:ident: $bound:path>)?
            ($($arg:ident: $type:ty),* $(,)?) $(-> $out:ty)? $body:block
    )*) => {$(
        $(#[$attribute])*
        $vis fn $name $(<$E: $bound>)?
            (level: $crate::backend::cpu::simd::Level, $($arg: $type),*) $(-> $out)?
        {
            #[inline(always)]
            #[allow(unused, reason = "not every body multiplies and adds")]
            fn body<const FUSED: bool $(, $E: $bound)?>($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            $crate::backend::cpu::simd::per_level::compiled_for! {
                avx2: fn avx2 $(<$E: $bound>)? ($($arg: $type),*) $(-> $out)? {
                    body::<true $(, $E)?>($($arg),*)
                }
            }

            #[cfg(target_arch = "x86_64")]
            $crate::backend::cpu::simd::per_level::compiled_for! {
                avx512: fn avx512 $(<$E: $bound>)? ($($arg: $type),*) $(-> $out)? {
                    body::<true $(, $E)?>($($arg),*)
                }
            }

            match level {
                $crate::backend::cpu::simd::Level::Portable => {
                    body::<{ $crate::backend::cpu::simd::per_level::BASELINE_FUSED } $(, $E)?>(
                        $($arg),*
                    )
                }
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `Level::of` gives this level only where its instructions were detected.
                $crate::backend::cpu::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                $crate::backend::cpu::simd::Level::Avx512
                | $crate::backend::cpu::simd::Level::Avx512Vbmi => {
                    // SAFETY: as above.
                    unsafe { avx512($($arg),*) }
                }
                #[cfg(target_arch = "aarch64")]
                $crate::backend::cpu::simd::Level::Neon => body::<true $(, $E)?>($($arg),*),
            }
        }
    )*};
}
pub(super) use per_level;
