# What PyTorch takes for an operation: a JSON object on standard input, seconds on standard output.
import json
import statistics
import sys

import torch
import torch.nn.functional as F

ask = json.load(sys.stdin)
if not torch.cuda.is_available():
    sys.exit("PyTorch sees no GPU")


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


if ask["op"] == "gemm":
    operands = [(random(ask["m"], ask["k"]), random(ask["n"], ask["k"])) for _ in range(ask["copies"])]

    def run(x, w):
        return F.linear(x, w)

elif ask["op"] == "attention":
    batch, d = ask["batch"], ask["d"]
    queries = (batch, ask["heads"], ask["queries"], d)
    keys = (batch, ask["kv_heads"], ask["keys"], d)
    operands = [(random(*queries), random(*keys), random(*keys)) for _ in range(ask["copies"])]
    # With one query the mask leaves out nothing; else there are as many queries as keys.
    causal = ask["queries"] > 1

    def run(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)

else:
    sys.exit("unknown operation")

with torch.no_grad():
    times = []
    for _ in range(10):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for operand in operands:
            run(*operand)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(operands))
print(statistics.median(times[1:]))
