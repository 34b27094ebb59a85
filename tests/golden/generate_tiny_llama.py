"""Writes tiny_llama.json: logits of small Llama-family models, computed in f64 by numpy (2.4.6).

The models' weights come from the same generator as in tests/common/tiny_model.rs, which builds
their files: tensor number i of the list holds `numbers(len, i)`, scaled.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install numpy==2.4.6
    /tmp/venv/bin/python tests/golden/generate_tiny_llama.py
"""

import json
import math
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
LAYERS, HIDDEN, HEADS, KV_HEADS, FFN, VOCAB = 2, 24, 4, 2, 20, 266
EPS, THETA = 1e-5, 10000.0
IDS = [7, 42, 0, 255, 42, 100, 9, 31]
# Llama 3's scaling, for a context of 16 that was stretched to 64.
SCALING = {"factor": 4.0, "low": 1.0, "high": 4.0, "original": 16}

MODELS = {
    "llama": {"head_dim": 6, "bias": False, "norms": False, "tied": True, "scaled": True},
    "qwen2": {"head_dim": 6, "bias": True, "norms": False, "tied": False, "scaled": False},
    "qwen3": {"head_dim": 8, "bias": False, "norms": True, "tied": False, "scaled": False},
}


def numbers(n, seed):
    """Numbers in [-2, 2): Knuth's MMIX generator, upper 24 bits."""
    state, out = (seed * 2 + 1) % 2**64, []
    for _ in range(n):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        out.append((state >> 40) / 2**24 * 4 - 2)
    return np.array(out)


def tensors(m):
    """Names as in Hugging Face folders, with shapes, in the order of their numbers."""
    q, kv = HEADS * m["head_dim"], KV_HEADS * m["head_dim"]
    yield "model.embed_tokens.weight", (VOCAB, HIDDEN)
    for i in range(LAYERS):
        layer = lambda name: f"model.layers.{i}.{name}"
        yield layer("input_layernorm.weight"), (HIDDEN,)
        for part, width in [("q", q), ("k", kv), ("v", kv)]:
            yield layer(f"self_attn.{part}_proj.weight"), (width, HIDDEN)
            if m["bias"]:
                yield layer(f"self_attn.{part}_proj.bias"), (width,)
        if m["norms"]:
            yield layer("self_attn.q_norm.weight"), (m["head_dim"],)
            yield layer("self_attn.k_norm.weight"), (m["head_dim"],)
        yield layer("self_attn.o_proj.weight"), (HIDDEN, q)
        yield layer("post_attention_layernorm.weight"), (HIDDEN,)
        yield layer("mlp.gate_proj.weight"), (FFN, HIDDEN)
        yield layer("mlp.up_proj.weight"), (FFN, HIDDEN)
        yield layer("mlp.down_proj.weight"), (HIDDEN, FFN)
    yield "model.norm.weight", (HIDDEN,)
    if not m["tied"]:
        yield "lm_head.weight", (VOCAB, HIDDEN)


def weights(m):
    w = {}
    for i, (name, shape) in enumerate(tensors(m)):
        x = numbers(math.prod(shape), i).reshape(shape) / 4
        w[name] = np.float32(1 + x).astype(np.float64) if name.endswith("norm.weight") else x
    return w


def frequencies(m):
    """Radians per position of each pair, and what Llama 3's scaling divides them by."""
    f = THETA ** (-np.arange(0, m["head_dim"], 2) / m["head_dim"])
    if not m["scaled"]:
        return f, np.ones_like(f)
    wavelength = 2 * np.pi / f
    low, high = SCALING["original"] / SCALING["low"], SCALING["original"] / SCALING["high"]
    smooth = (SCALING["original"] / wavelength - SCALING["low"]) / (SCALING["high"] - SCALING["low"])
    mixed = (1 - smooth) * f / SCALING["factor"] + smooth * f
    out = np.where(wavelength > low, f / SCALING["factor"], np.where(wavelength < high, f, mixed))
    return out, f / out


def logits(m, ids):
    w, (f, _), n, d = weights(m), frequencies(m), len(ids), m["head_dim"]

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * w[name]

    def rope(x):
        angle = np.arange(n)[:, None] * f
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        a, b = x[..., : d // 2], x[..., d // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["model.embed_tokens.weight"][ids]
    for i in range(LAYERS):
        layer = f"model.layers.{i}."

        def linear(x, name):
            return x @ w[f"{layer}{name}.weight"].T + w.get(f"{layer}{name}.bias", 0)

        h = norm(x, layer + "input_layernorm.weight")
        q = linear(h, "self_attn.q_proj").reshape(n, HEADS, d)
        k = linear(h, "self_attn.k_proj").reshape(n, KV_HEADS, d)
        v = linear(h, "self_attn.v_proj").reshape(n, KV_HEADS, d)
        if m["norms"]:
            q, k = norm(q, layer + "self_attn.q_norm.weight"), norm(k, layer + "self_attn.k_norm.weight")
        q, k = rope(q), rope(k).repeat(HEADS // KV_HEADS, 1)
        s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(d)
        s = np.where(np.tril(np.ones((n, n), bool)), s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        v = v.repeat(HEADS // KV_HEADS, 1)
        x = x + linear(np.einsum("hqk,khd->qhd", p, v).reshape(n, -1), "self_attn.o_proj")
        h = norm(x, layer + "post_attention_layernorm.weight")
        gate = linear(h, "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, "mlp.up_proj"), "mlp.down_proj")
    head = w.get("lm_head.weight", w["model.embed_tokens.weight"])
    return norm(x, "model.norm.weight") @ head.T


golden = {
    name: {
        "rope_factors": [float(f"{x:.9g}") for x in frequencies(m)[1]],
        "logits": [round(float(x), 6) for x in logits(m, IDS)[-1]],
    }
    for name, m in MODELS.items()
}
out = {"ids": IDS, "models": golden}
(HERE / "tiny_llama.json").write_text(json.dumps(out, separators=(",", ":")) + "\n")
