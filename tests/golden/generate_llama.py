"""Writes smollm2_f64.json: logits and greedy continuations of the default model, computed in f64.

The transformer is written out here in numpy (2.4.6); weights are decoded by the PyPI package
`gguf` (0.19.0), prompts are cut into tokens as in smollm2.json (by llama.cpp). llama.cpp's own
continuations there are no reference for ours: it quantises activations too, which decides near
ties otherwise.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install gguf==0.19.0 numpy==2.4.6
    /tmp/venv/bin/python tests/golden/generate_llama.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import pathlib
import sys

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
TOKENS = 16
# Every so many logits are kept.
STRIDE = 16

reader = gguf.GGUFReader(sys.argv[1])
field = lambda key: reader.fields[key].contents()
W = {
    t.name: gguf.dequantize(t.data, t.tensor_type).astype(np.float64).reshape(t.shape[::-1])
    for t in reader.tensors
}
LAYERS = field("llama.block_count")
HEADS = field("llama.attention.head_count")
KV_HEADS = field("llama.attention.head_count_kv")
DIM = field("llama.rope.dimension_count")
BASE = float(field("llama.rope.freq_base"))
EPS = float(field("llama.attention.layer_norm_rms_epsilon"))


def norm(x, name):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * W[name]


def rope(x):
    angle = np.arange(len(x))[:, None] * BASE ** (-np.arange(0, DIM, 2) / DIM)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    even, odd = x[..., 0::2], x[..., 1::2]
    # GGUF files of this architecture have neighbours rotated together.
    return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape)


def logits(ids):
    n = len(ids)
    x = W["token_embd.weight"][ids]
    for layer in range(LAYERS):
        linear = lambda x, name: x @ W[f"blk.{layer}.{name}.weight"].T
        h = norm(x, f"blk.{layer}.attn_norm.weight")
        q = rope(linear(h, "attn_q").reshape(n, HEADS, DIM))
        k = rope(linear(h, "attn_k").reshape(n, KV_HEADS, DIM)).repeat(HEADS // KV_HEADS, 1)
        v = linear(h, "attn_v").reshape(n, KV_HEADS, DIM).repeat(HEADS // KV_HEADS, 1)
        s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(DIM)
        s = np.where(np.tril(np.ones((n, n), bool)), s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hqk,khd->qhd", p, v).reshape(n, -1), "attn_output")
        h = norm(x, f"blk.{layer}.ffn_norm.weight")
        gate = linear(h, "ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, "ffn_up"), "ffn_down")
    return norm(x, "output_norm.weight") @ W["token_embd.weight"].T


prompts = json.loads((HERE / "smollm2.json").read_text())["greedy"]
golden = []
for prompt in prompts:
    ids, margins = list(prompt["prompt_ids"]), []
    first = logits(ids)[-1]
    last = first
    for _ in range(TOKENS):
        second, best = np.sort(last)[-2:]
        margins.append(round(best - second, 6))
        ids.append(int(last.argmax()))
        last = logits(ids)[-1]
    golden.append(
        {
            "prompt": prompt["prompt"],
            "prompt_ids": prompt["prompt_ids"],
            "greedy": ids[len(prompt["prompt_ids"]) :],
            # By how much the likeliest token leads.
            "margins": margins,
            "logits": [round(x, 5) for x in first[::STRIDE]] if not golden else None,
        }
    )
out = {"stride": STRIDE, "prompts": golden}
(HERE / "smollm2_f64.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
