"""Golden vectors for the block formats: codes and scales by exact rational arithmetic.

    pip install numpy ml_dtypes
    python tests/golden/generate_format.py

writes `tests/golden/format/vectors.txt`. Code tables come from ml_dtypes; every rounding is done on
`fractions.Fraction`, by nearest table entry, ties to the even code. Only squared errors are f64,
added in order, as documented.

File format, one item a line:
    source NAME ROWS K HEX          f32 values, 8 hex digits each (big endian)
    case FORMAT RULE SOURCE FIXED TENSOR_SCALE SCALES CODES
FIXED and TENSOR_SCALE are f32 in hex, or `-`; SCALES row-major (f32 as 8 hex digits); CODES are the
bytes of the visible columns of each row, without padding.
"""

import bisect
import pathlib
import struct
from fractions import Fraction

import ml_dtypes
import numpy as np

OUT = pathlib.Path(__file__).parent / "format" / "vectors.txt"
F32_MAX = Fraction(float(np.finfo(np.float32).max))
MIN_SCALE = np.float32(2.0**-126)


class Table:
    """The non-negative finite values of a narrow type, by code."""

    def __init__(self, dtype, bits):
        codes = np.arange(1 << (bits - 1), dtype=np.uint8)
        values = codes.view(dtype).astype(np.float64)
        self.sign = 1 << (bits - 1)
        self.values = [Fraction(float(v)) for v in values if np.isfinite(v)]
        self.max = self.values[-1]
        self.emax = floor_log2(self.max)

    def round(self, q, limit=None):
        """The code nearest to a non-negative rational, saturated at `limit`."""
        last = len(self.values) - 1
        if limit is not None:
            while self.values[last] > limit:
                last -= 1
        if q >= self.values[last]:
            return last
        above = bisect.bisect_right(self.values, q)
        low, high = q - self.values[above - 1], self.values[above] - q
        if low == high:
            return above if above % 2 == 0 else above - 1
        return above if high < low else above - 1


def floor_log2(x):
    n = x.numerator.bit_length() - x.denominator.bit_length()
    return n if Fraction(2) ** n <= x else n - 1


def ceil_log2(x):
    n = floor_log2(x)
    return n if Fraction(2) ** n == x else n + 1


E2M1 = Table(ml_dtypes.float4_e2m1fn, 4)
E4M3 = Table(ml_dtypes.float8_e4m3fn, 8)
E5M2 = Table(ml_dtypes.float8_e5m2, 8)
E8M0 = np.arange(255, dtype=np.uint8).view(ml_dtypes.float8_e8m0fnu).astype(np.float64)

# name: element, scale, block rows, block columns (None: all)
FORMATS = {
    "nvfp4": (E2M1, "ue4m3", 1, 16),
    "mxfp4": (E2M1, "e8m0", 1, 32),
    "mxfp8": (E4M3, "e8m0", 1, 32),
    "mxfp8e5m2": (E5M2, "e8m0", 1, 32),
    "fp8": (E4M3, "f32", None, None),
    "fp8e5m2": (E5M2, "f32", None, None),
    "fp8row": (E4M3, "f32", 1, None),
    "fp8group128": (E4M3, "f32", 1, 128),
    "fp8block128": (E4M3, "f32", 128, 128),
}
RULES = {
    "ue4m3": ["amax", "four_over_six", "mse"],
    "e8m0": ["amax", "ocp", "ocp_ceil", "mse"],
    "f32": ["amax", "mse"],
}


def f32_scale(amax, target):
    return np.float32(1) if amax == 0 else max(np.float32(amax) / np.float32(float(target)), MIN_SCALE)


def codes_of(table, block, unit):
    """Codes of a block's values and the squared error."""
    codes, error = [], 0.0
    limit = F32_MAX / unit if unit else None
    for x in block:
        q = abs(Fraction(float(x))) / unit if unit else Fraction(0)
        code = table.round(q, limit)
        d = abs(float(x)) - float(table.values[code] * unit)
        error = error + d * d
        codes.append(code | (table.sign if np.signbit(x) else 0))
    return codes, error


def candidates(rule, table, scale, amax, g):
    """(stored scale, unit) pairs in order of preference on ties."""
    a = Fraction(float(amax))
    if scale == "ue4m3":
        gf = Fraction(float(g))
        top = max(c for c, v in enumerate(E4M3.values) if 6 * v * gf <= F32_MAX)
        at = lambda target: min(E4M3.round(a / target / gf), top)
        codes = {
            "amax": [at(6)],
            "four_over_six": [at(6), at(4)],
            "mse": [at(6), *range(at(8), at(3) + 1)],
        }[rule]
        return [(c, E4M3.values[c] * gf) for c in codes]
    if scale == "e8m0":
        if a == 0:
            exps = [-127]
        else:
            ocp = floor_log2(a) - table.emax
            exps = {
                "amax": [ceil_log2(a / table.max)],
                "ocp": [ocp],
                "ocp_ceil": [ceil_log2(a) - table.emax],
                "mse": [ocp, ocp - 1, ocp + 1],
            }[rule]
        codes = [min(max(e, -127), 127 - table.emax) + 127 for e in exps]
        return [(c, Fraction(float(E8M0[c]))) for c in codes]
    if g is not None:
        targets = None
    elif rule == "amax":
        targets = [table.max]
    else:
        targets = [v for v in reversed(table.values) if v >= Fraction(2) ** table.emax]
    scales = [g] if targets is None else [f32_scale(amax, t) for t in targets]
    return [(s, Fraction(float(s))) for s in scales]


def quantise(name, rule, x, fixed):
    table, scale, block_rows, block_cols = FORMATS[name]
    rows, k = x.shape
    g = fixed
    if scale == "ue4m3" and fixed is None:
        g = f32_scale(np.abs(x).max(initial=0), 6 * 448)
    codes = np.zeros(x.shape, dtype=np.uint8)
    scales = []
    br, bc = block_rows or rows, block_cols or k
    for r in range(0, rows, br):
        for c in range(0, k, bc):
            block = x[r : r + br, c : c + bc]
            amax = np.abs(block).max(initial=0)
            tries = [
                (s, *codes_of(table, block.ravel(), unit))
                for s, unit in candidates(rule, table, scale, amax, g)
            ]
            best = min(tries, key=lambda t: t[2])  # the first of equals
            scales.append(best[0])
            codes[r : r + br, c : c + bc] = np.reshape(best[1], block.shape)
    if table is E2M1:
        padded = np.pad(codes, ((0, 0), (0, k % 2)))
        codes = padded[:, 0::2] | padded[:, 1::2] << 4
    packed = "".join(f32_hex(s) if scale == "f32" else f"{s:02x}" for s in scales)
    return (f32_hex(g) if scale == "ue4m3" else "-"), packed, codes.tobytes().hex()


def f32_hex(x):
    return struct.pack(">f", x).hex()


def sources():
    rng = np.random.default_rng(20240917)
    shape = (8, 56)
    f = np.float32
    normal = rng.standard_normal(shape).astype(f)
    yield "normal", normal
    yield "heavy", rng.standard_t(2, shape).astype(f)
    # Blocks whose amax spans 24 binades: subnormal and zero block scales in NVFP4.
    spread = normal * f(2) ** rng.integers(-24, 1, (8, 1)).astype(f)
    spread[:, ::16] *= f(2) ** rng.integers(-3, 4, spread[:, ::16].shape).astype(f)
    yield "spread", spread
    # Midpoints and their neighbours under every scale, with a tensor scale of exactly 1.
    ties = np.zeros(shape, f)
    grid = [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0]
    for row in range(8):
        unit = [448, 1, 0.5, 1.125, 3.25, 2**-9, 2**-7, 15][row]
        for col in range(56):
            v = f(grid[col % 8] * unit)
            v = [v, np.nextafter(v, f(0)), np.nextafter(v, f(9e9))][col // 8 % 3]
            ties[row, col] = -v if (row + col) % 3 == 0 else v
    ties[:, 15::16] = (np.array([448, 1, 0.5, 1.125, 3.25, 2**-9, 2**-7, 15]) * 6).astype(f)[:, None]
    yield "ties", ties
    # Every E4M3 and E5M2 boundary nearby: odd multiples of half steps.
    fine = np.array([(17 + 2 * (i % 16)) * 2.0 ** (i // 16 - 14) for i in range(448)], f).reshape(shape)
    fine[1::2] = np.nextafter(fine[1::2], f(0))
    yield "fine", fine
    huge = np.where(rng.random(shape) < 0.5, f(3.4028235e38), normal * f(1e38)).astype(f)
    huge[0, 0] = np.finfo(f).max
    yield "huge", huge
    # An amax one step below f32's largest, where scales round.
    near = normal * f(3e37)
    near[3, 3] = -np.nextafter(np.finfo(f).max, f(0))
    yield "near_max", near
    tiny = (normal * f(2) ** f(-120) * f(2) ** rng.integers(-29, 1, shape).astype(f)).astype(f)
    yield "tiny", tiny
    yield "subnormal", np.where(rng.random(shape) < 0.3, 0, normal * f(2) ** f(-140)).astype(f)
    zeros = np.zeros(shape, f)
    zeros[::2, 1::2] = f(-0.0)
    zeros[3, 40:] = normal[3, 40:]
    yield "zeros", zeros
    yield "all_zero", np.where(rng.random((2, 40)) < 0.5, f(0), f(-0.0)).astype(f)
    yield "equal", np.full((2, 40), f(0.1))
    # More than one block of 128 each way.
    yield "wide", rng.standard_normal((2, 200)).astype(f)
    yield "tall", rng.standard_normal((130, 3)).astype(f)


def main():
    lines = []
    data = list(sources())
    for name, x in data:
        assert np.isfinite(x).all()
        words = "".join(f32_hex(v) for v in x.ravel())
        lines.append(f"source {name} {x.shape[0]} {x.shape[1]} {words}")
    for format_name, (_, scale, block_rows, _) in FORMATS.items():
        for rule in RULES[scale]:
            for name, x in data:
                if name == "tall" and block_rows == 1 and rule != "amax":
                    continue
                runs = [None]
                takes_fixed = scale == "ue4m3" or block_rows is None
                if takes_fixed and name in ("normal", "huge", "tiny"):
                    runs += [np.float32(v) for v in (0.0123, 3e38, 1e-41)]
                for fixed in runs:
                    g, scales, codes = quantise(format_name, rule, x, fixed)
                    shown = "-" if fixed is None else f32_hex(fixed)
                    lines.append(f"case {format_name} {rule} {name} {shown} {g} {scales} {codes}")
    OUT.write_text("\n".join(lines) + "\n")
    print(f"{OUT}: {len(lines)} lines, {OUT.stat().st_size} bytes")


main()
