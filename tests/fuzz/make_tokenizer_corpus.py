#!/usr/bin/env python3
"""Regenerate tests/fuzz/corpus/tokenizer_json/ and tokenizer_text/ from tests/golden/tokenizers/: the same pipelines
with a handful of tokens each, and a few of the texts."""
import json
import pathlib

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "tokenizers"


def main():
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
