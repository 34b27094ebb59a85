#!/usr/bin/env python3
"""Writes tests/golden/num/: what independent implementations say of the narrow float formats.

    pip install ml_dtypes==0.6.0 numpy==2.4.6
    python3 tests/golden/generate_num.py

Files, all little-endian, without header:

    <type>.values   f32 of every code (256, or 16 for e2m1), as ml_dtypes decodes it
    <type>.f32      records (u32 bits of an f32, u8 code): round to nearest even, saturating
    <type>.f64      records (u64 bits of an f64, u8 code), the same
    <type>.f32ns    records (u32, u8), not saturating: overflow to NaN (e4m3) or inf (e5m2)
    bf16.f64, f16.f64   records (u64 bits of an f64, u16 code)

Every f32 record is computed twice: by ml_dtypes, and by exact rational arithmetic over its table of
values; the two must agree. ml_dtypes takes f64 through f32, which rounds twice, so f64 records are
the exact arithmetic's, and must agree with ml_dtypes (for f16: numpy, always) where the f64 is an
f32. Where ml_dtypes has another rule, the rule is changed:

* it does not saturate: values beyond the largest finite one are clipped to it before the cast, and
  so are infinities; that differs only above the midpoint to the next step;
* e2m1 of NaN: CUDA and PTX give +6, ml_dtypes gives -0;
* e8m0: ml_dtypes gives NaN for zero, negatives and overflow; CUDA discards the sign and clips to
  2^-127 .. 2^127; between 2^-127 and 2^-126, f32 subnormals, ml_dtypes always rounds up, CUDA to
  nearest as everywhere else;
* ue4m3 is e4m3 of the value clipped at zero from below.
"""
import bisect
import struct
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np

np.seterr(all="ignore")
OUT = Path(__file__).parent / "num"
SEED = 20240229


class Format:
    def __init__(self, name, dtype, magnitudes, signed=True):
        self.name, self.dtype, self.signed = name, dtype, signed
        codes = np.arange(magnitudes, dtype=np.uint8)
        self.values = [float(v) for v in codes.view(dtype).astype(np.float64)]
        self.exact = [Fraction(v) for v in self.values]
        # The step after the largest value, as if the exponent range went on.
        self.next = 2 * self.exact[-1] - self.exact[-2] if name != "e8m0" else 2 * self.exact[-1]

    def table(self):
        codes = np.arange(16 if self.name == "e2m1" else 256, dtype=np.uint8)
        values = codes.view(self.dtype).astype(np.float32)
        return np.where(codes < 128, values, values[codes & 0x7F]) if self.name == "ue4m3" else values

    def sign_bit(self):
        return 8 if self.name == "e2m1" else 0x80

    def nearest(self, x):
        """The code nearest to a finite x >= 0, len(values) beyond the last midpoint; ties to even,
        up for e8m0 (significands 1 and 2)."""
        steps = self.exact + [self.next]
        x = Fraction(x)
        i = bisect.bisect_right(steps, x)
        if i == 0:
            return 0
        if i == len(steps):
            return len(self.exact)
        below, above = x - steps[i - 1], steps[i] - x
        if below < above:
            return i - 1
        if above < below or self.name == "e8m0":
            return i
        return i if i % 2 == 0 else i - 1


def cast(fmt, x):
    """ml_dtypes on values in range."""
    return x.astype(fmt.dtype).view(np.uint8).astype(np.int64)


def saturating(fmt, x):
    top = fmt.values[-1]
    if fmt.name == "e8m0":
        a = np.abs(x)
        bottom = fmt.values[0]
        return np.where(np.isnan(x), 0xFF, cast(fmt, np.clip(a, bottom, top).astype(x.dtype)))
    low = -top if fmt.signed else 0.0
    codes = cast(fmt, np.clip(x, np.array(low, x.dtype), np.array(top, x.dtype)))
    if fmt.name == "e2m1":
        codes = np.where(np.isnan(x), 7, codes)
    if not fmt.signed:
        codes = np.where(np.isnan(x), 0x7F, np.where(np.signbit(x), 0, codes))
    return codes


def exactly(fmt, x):
    """The saturating conversion by exact arithmetic; NaN has no say here and gives None."""
    codes = []
    for value in x.tolist():
        magnitude, top = abs(value), len(fmt.values) - 1
        if value != value:
            codes.append(None)
        elif fmt.name == "ue4m3" and np.signbit(value):
            codes.append(0)
        else:
            code = top if magnitude == float("inf") else min(fmt.nearest(magnitude), top)
            codes.append(code | (fmt.sign_bit() if fmt.signed and np.signbit(value) else 0))
    return codes


def agreed(fmt, x):
    """The code of every value, both ways where both apply."""
    cast_codes, exact_codes = saturating(fmt, x).tolist(), exactly(fmt, x)
    codes = []
    for value, a, b in zip(x.tolist(), cast_codes, exact_codes):
        subnormal_source = fmt.name == "e8m0" and abs(value) < 2.0**-126
        if b is not None and float(np.float32(value)) == value and not subnormal_source:
            assert a == b, (fmt.name, value.hex(), a, b)
        codes.append(a if b is None else b)
    return np.array(codes)


def around(points, dtype):
    points = np.array(points, dtype)
    return np.concatenate(
        [points, np.nextafter(points, dtype(np.inf)), np.nextafter(points, dtype(-np.inf))]
    )


def samples(fmt, dtype, rng):
    steps = fmt.values + [float(fmt.next)]
    middles = [(a + b) / 2 for a, b in zip(steps, steps[1:])]
    tiny = np.finfo(dtype).smallest_subnormal
    edge = around(steps + middles, dtype)
    special = np.array([0.0, np.inf, np.nan, np.finfo(dtype).max, tiny], dtype)
    uint = np.uint32 if dtype is np.float32 else np.uint64
    bits = rng.integers(0, np.iinfo(uint).max, 400, dtype=uint, endpoint=True).view(dtype)
    low, high = np.log2(max(fmt.values[0], fmt.values[1] / 8)), np.log2(float(fmt.next))
    spread = (2.0 ** rng.uniform(low, min(high, 127), 600)).astype(dtype)
    # Where rounding to f16 or bf16 first would land on a tie and go wrong.
    double = np.concatenate([np.array(middles[::4], dtype) * dtype(1 + s * 2.0**-k)
                             for s in (1, -1) for k in (9, 13, 20)])
    x = np.concatenate([edge, special, bits, spread, double]).astype(dtype)
    x = np.concatenate([x, -x])
    return np.unique(x.view(uint)).view(dtype)


def write(name, x, codes, record):
    uint = np.uint32 if x.dtype == np.float32 else np.uint64
    data = b"".join(
        struct.pack(record, b, c) for b, c in zip(x.view(uint).tolist(), codes.tolist())
    )
    (OUT / name).write_bytes(data)
    print(f"{name}: {len(x)} records, {len(data)} bytes")


def wide(name, man_bits, bias, infinity, cast64, rng):
    """f64 to a 16-bit float: the cases in which one rounding and two differ, and others."""
    codes = rng.integers(0, infinity - 1, 300).tolist() + [0, 1, 2, infinity - 2, infinity - 1]

    def value(code):
        field, fraction = code >> man_bits, code & ((1 << man_bits) - 1)
        if field == 0:
            return Fraction(fraction) * Fraction(2) ** (1 - bias - man_bits)
        return Fraction(fraction + (1 << man_bits)) * Fraction(2) ** (field - bias - man_bits)

    x, want = [], []
    for code in codes:
        low, high = value(code), value(code + 1)
        middle = float((low + high) / 2)
        for k in (52, 40, 31, 26, 20):
            for f, c in ((1 + 2.0**-k, code + 1), (1 - 2.0**-k, code)):
                x.append(middle * f)
                want.append(c)
        x += [middle, float(low)]
        want += [code + code % 2, code]
    x, want = np.array(x + [-v for v in x]), np.array(want + [c | 0x8000 for c in want])
    if cast64 is not None:
        assert (cast64(x) == want).all()
    write(f"{name}.f64", x, want, "<QH")


def main():
    OUT.mkdir(exist_ok=True)
    rng = np.random.default_rng(SEED)
    formats = [
        Format("e4m3", ml_dtypes.float8_e4m3fn, 0x7F),
        Format("e5m2", ml_dtypes.float8_e5m2, 0x7C),
        Format("e2m1", ml_dtypes.float4_e2m1fn, 8),
        Format("ue4m3", ml_dtypes.float8_e4m3fn, 0x7F, signed=False),
        Format("e8m0", ml_dtypes.float8_e8m0fnu, 0xFF, signed=False),
    ]
    for fmt in formats:
        (OUT / f"{fmt.name}.values").write_bytes(fmt.table().astype("<f4").tobytes())
        for dtype, suffix, record in ((np.float32, "f32", "<IB"), (np.float64, "f64", "<QB")):
            x = samples(fmt, dtype, rng)
            codes = agreed(fmt, x)
            write(f"{fmt.name}.{suffix}", x, codes, record)
            if fmt.name in ("e4m3", "e5m2") and dtype is np.float32:
                write(f"{fmt.name}.f32ns", x, cast(fmt, x), record)
    wide("bf16", 7, 127, 0x7F80, None, rng)
    wide("f16", 10, 15, 0x7C00, lambda x: x.astype(np.float16).view(np.uint16), rng)


main()
