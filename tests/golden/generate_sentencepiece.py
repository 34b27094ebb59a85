"""Writes sentencepiece.gguf, a small vocabulary without a model, and sentencepiece.json, what the
PyPI package `sentencepiece` (0.2.3) makes of texts with it.

    python -m venv /tmp/venv && /tmp/venv/bin/pip install sentencepiece==0.2.3 gguf==0.19.0
    /tmp/venv/bin/python tests/golden/generate_sentencepiece.py
"""

import io
import json
import pathlib

import gguf
import sentencepiece

HERE = pathlib.Path(__file__).parent
TEXTS = [
    "",
    " ",
    "Hello, world!",
    "  two  spaces and  more   ",
    "the licence of the work and its contributors",
    "and\nnewlines\n\n\tand tabs",
    "numbers 1234567890 3.14",
    "naïve café Zürich",
    "日本 👍🏽 \u00a0",
    "aaaaaaaaaaaaaaaa the the the thethe",
    "▁already ▁there",
    "You may reproduce and distribute copies of the Work or Derivative Works thereof",
]

trained = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter((HERE.parent.parent / "LICENSE-APACHE").read_text().splitlines()),
    model_writer=trained,
    model_type="bpe",
    vocab_size=640,
    byte_fallback=True,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
    num_threads=1,
    minloglevel=2,
)
model = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())


def kind(i):
    if model.is_unknown(i):
        return gguf.TokenType.UNKNOWN
    if model.is_control(i):
        return gguf.TokenType.CONTROL
    return gguf.TokenType.BYTE if model.is_byte(i) else gguf.TokenType.NORMAL


ids = range(model.get_piece_size())
out = gguf.GGUFWriter(HERE / "sentencepiece.gguf", "llama")
out.add_tokenizer_model("llama")
out.add_token_list([model.id_to_piece(i) for i in ids])
out.add_token_scores([model.get_score(i) for i in ids])
out.add_token_types([kind(i) for i in ids])
out.add_bos_token_id(model.bos_id())
out.add_eos_token_id(model.eos_id())
out.add_unk_token_id(model.unk_id())
out.write_header_to_file()
out.write_kv_data_to_file()
out.close()
golden = [{"text": t, "ids": model.encode(t)} for t in TEXTS]
(HERE / "sentencepiece.json").write_text(json.dumps(golden, indent=1) + "\n")
