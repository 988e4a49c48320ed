#!/usr/bin/env python3
"""Regenerate tests/fuzz/corpus/tokenizer_json/, tokenizer_text/ and tokenizer_gguf/ from tests/golden/tokenizers/: the
same pipelines with a handful of tokens each, and a few of the texts.  Needs the package gguf."""
import json
import pathlib

import gguf

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "tokenizers"


def write_gguf(name, model, pre, tokens, types, merges=None):
    w = gguf.GGUFWriter(HERE / "corpus" / "tokenizer_gguf" / name, "llama")
    w.add_tokenizer_model(model)
    if pre:
        w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    w.add_token_types(types)
    if merges:
        w.add_token_merges(merges)
    else:
        w.add_token_scores([float(-i) for i in range(len(tokens))])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_add_bos_token(True)
    w.add_chat_template("x")
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def main():
    letters = ["a", "b", "\u0120", "\u2581", "<", "\u00c3", "ab", "\u0120a", "\u2581a", "\u2581ab"]
    write_gguf("llama", "llama", None, ["<unk>", "<s>", "</s>", "<0xC3>"] + letters, [2, 3, 3, 6] + [1] * 8 + [4, 1])
    for pre in ("smollm", "llama-bpe", "qwen2", "falcon", "deepseek-llm"):
        write_gguf(pre, "gpt2", pre, ["<pad>", "<s>", "</s>"] + letters, [3, 3, 4] + [1] * 10, ["a b", "\u0120 a"])
    for path in sorted(GOLDEN.glob("*/tokenizer.json")):
        spec = json.loads(path.read_text())
        model, added = spec["model"], spec["added_tokens"]
        keep = {t["content"] for t in added} | set(list(model["vocab"])[:40]) | {"\u2581", "\u0120"}
        model["vocab"] = {t: i for t, i in model["vocab"].items() if t in keep}
        model["merges"] = [m for m in model["merges"]
                           if all(t in model["vocab"] for t in ((m if isinstance(m, list) else m.split(" "))
                                  + ["".join(m) if isinstance(m, list) else m.replace(" ", "")]))]
        config = json.loads((path.parent / "tokenizer_config.json").read_text())
        whole = {"tokenizer": spec, "config": config, "generation": {"eos_token_id": [1, 2]}}
        out = HERE / "corpus" / "tokenizer_json" / path.parent.name
        out.write_text(json.dumps(whole, ensure_ascii=False, separators=(",", ":")))
    texts = json.loads((GOLDEN / "texts.json").read_text())
    for i, item in enumerate(texts[::7]):
        data = item["text"].encode() if "text" in item else bytes.fromhex(item["hex"])
        (HERE / "corpus" / "tokenizer_text" / f"{i:02}").write_bytes(bytes([i]) + data)


if __name__ == "__main__":
    main()
