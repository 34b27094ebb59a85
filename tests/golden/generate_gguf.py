"""Writes gguf_blocks.gguf: raw blocks of every decoded type beside their values.

Blocks and values come from the PyPI package `gguf` (0.19.0, numpy 2.4.6), which is independent of
this crate. For each type T the file holds tensor "T" (random blocks) and "T.values" (F32).

    python -m venv /tmp/venv && /tmp/venv/bin/pip install gguf==0.19.0 numpy==2.4.6
    /tmp/venv/bin/python tests/golden/generate_gguf.py
"""

import pathlib

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

VALUES = 1024
HERE = pathlib.Path(__file__).parent
rng = np.random.default_rng(20240817)


def halves(blocks, columns):
    """Makes the f16 at each byte column finite: exponent 31 becomes 15."""
    for c in columns:
        half = blocks[:, c : c + 2].copy().view(np.uint16)
        half[(half & 0x7C00) == 0x7C00] ^= 0x4000
        blocks[:, c : c + 2] = half.view(np.uint8)


def blocks_of(kind):
    length, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (VALUES // length, size), dtype=np.uint8)
    match kind:
        case T.F16:
            halves(blocks, [0])
        case T.F32 | T.BF16:
            # The top exponent is inf or NaN.
            blocks[:, -1] &= 0xBF
        case T.MXFP4:
            # 0xFF is NaN in the format and a number in ggml.
            blocks[:, 0] = np.arange(len(blocks), dtype=np.uint8) * 8
            blocks[-1, 0], blocks[-2, 0] = 254, 1
        case T.NVFP4:
            # Half the scale codes with the sign bit (ignored); 0x7F is NaN in the format.
            codes = np.arange(4 * len(blocks), dtype=np.uint8) * 2
            blocks[:, :4] = (codes | (rng.integers(0, 2, codes.shape) << 7).astype(np.uint8)).reshape(-1, 4)
            blocks[0, :2] = [1, 7]
        case T.Q6_K:
            halves(blocks, [208])
        case T.Q4_1 | T.Q5_1 | T.Q4_K | T.Q5_K:
            halves(blocks, [0, 2])
        case T.Q4_0 | T.Q5_0 | T.Q8_0:
            halves(blocks, [0])
    return blocks


out = gguf.GGUFWriter(HERE / "gguf_blocks.gguf", "golden")
out.add_description("blocks and their values")
out.add_uint8("test.u8", 250)
out.add_int8("test.i8", -5)
out.add_int64("test.i64", -(2**40))
out.add_float64("test.f64", 0.1)
out.add_bool("test.bool", True)
out.add_array("test.strings", ["a", "", "ü"])
out.add_array("test.ints", [1, -2, 3])
for kind in (
    T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0, T.Q4_K, T.Q5_K, T.Q6_K, T.MXFP4, T.NVFP4,
):
    raw = blocks_of(kind)
    if kind in (T.F32, T.F16):
        raw = raw.view(np.float32 if kind == T.F32 else np.float16).reshape(2, -1)
        values = raw.astype(np.float32)
        out.add_tensor(kind.name, raw)
    else:
        # An outer dimension of 2: rows are what blocks run along.
        raw = raw.reshape(2, -1)
        values = gguf.quants.dequantize(raw, kind)
        out.add_tensor(kind.name, raw, raw_dtype=kind)
    assert values.dtype == np.float32 and values.size == VALUES
    assert np.isfinite(values).all() or kind == T.MXFP4, kind
    out.add_tensor(kind.name + ".values", np.ascontiguousarray(values))
out.write_header_to_file()
out.write_kv_data_to_file()
out.write_tensors_to_file()
out.close()
