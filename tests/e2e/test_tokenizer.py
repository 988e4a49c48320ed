#!/usr/bin/env python3
"""`quire tokenize` and `quire detokenize` against the `tokenizers` package: SmolLM2 and the small tokenizers of
tests/golden/tokenizers/, each on 12,000 lines of mixed text (languages, code, emoji, controls, invalid UTF-8)."""
import functools
import json
import pathlib
import random
import sys
import tempfile
import unicodedata

from harness import GOLDEN, MODEL, ROOT, main, need_model, quire, test

sys.path.insert(0, str(GOLDEN))
import make_tokenizers as golden  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

NUM_LINES = 12000
MARKS = "aeiou\u0301\u0308\u0323\u093c\u0345\u1100\u1161\u11a8\uac00\uac01\u3099\u304b"
SPACES = " \n\t\r\u00a0\u3000\u2028\u0085\x0b\x0cxX1.'"


def any_char(r):
    return chr(r.choice([r.randrange(0x80), r.randrange(0x800), r.randrange(0xD800), r.randrange(0xE000, 0x110000)]))


def mixed(r, samples):
    glue = ["", " ", "\n", "  ", "\t", "'s", "1", "."]
    return "".join(r.choice(samples)[r.randrange(20):][: r.randrange(1, 40)] + r.choice(glue) for _ in range(r.randrange(1, 8)))


def damaged(r, samples):
    data = bytearray((r.choice(samples) * 2).encode())
    for _ in range(r.randrange(1, 6)):
        if data:
            data[r.randrange(len(data))] = r.randrange(256)
    return bytes(data)


@functools.cache
def lines():
    """NUM_LINES lines of bytes, the same every time."""
    r = random.Random(1)
    samples = golden.TEXTS
    assigned = [c for c in range(0x20, 0x30000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    out = [t.encode() for t in samples] + [bytes.fromhex(h) for h in golden.INVALID]
    for path in sorted(ROOT.glob("src/*/*.c")) + sorted(ROOT.glob("docs/*.md")):
        out += [line for line in path.read_bytes().split(b"\n")[:200] if line][:40]
    out = out[: NUM_LINES // 4]
    kinds = [
        (25, lambda: mixed(r, samples).encode()),
        (15, lambda: "".join(chr(r.choice(assigned)) for _ in range(r.randrange(1, 60))).encode()),
        (10, lambda: "".join(any_char(r) for _ in range(r.randrange(1, 60))).encode()),
        (10, lambda: bytes(r.randrange(256) for _ in range(r.randrange(1, 80)))),
        (10, lambda: damaged(r, samples)),
        (10, lambda: "".join(r.choice(SPACES) for _ in range(r.randrange(1, 50))).encode()),
        (10, lambda: "".join(r.choice(MARKS) for _ in range(r.randrange(1, 50))).encode()),
        (10, lambda: " ".join(str(r.randrange(10 ** r.randrange(1, 12))) for _ in range(r.randrange(1, 8))).encode()),
    ]
    weights, makers = zip(*kinds)
    return out + [make() for make in r.choices(makers, weights, k=NUM_LINES - len(out))]


def first_difference(ids, expected, tok):
    at = next((i for i, (a, b) in enumerate(zip(ids, expected)) if a != b), min(len(ids), len(expected)))
    show = lambda some: [tok.id_to_token(i) for i in some[max(0, at - 4) : at + 4]]
    return f"id {at} of {len(ids)} and {len(expected)}: {show(ids)}, expected {show(expected)}"


def compare(models, tok, lines_per_file):
    """Ids with and without special tokens, and the text they decode to, by every model of the same tokenizer."""
    all_lines = lines()
    with tempfile.TemporaryDirectory() as folder:
        path, ids_path = pathlib.Path(folder) / "text", pathlib.Path(folder) / "ids"
        for start in range(0, NUM_LINES, lines_per_file):
            data = b"\n".join(all_lines[start : start + lines_per_file])
            path.write_bytes(data)
            where = f"lines {start} to {start + lines_per_file}"
            for options in ([], ["--no-add-special", "--no-parse-special"]):
                expected = golden.reference(tok, data, parse_special=not options, add_special=not options)
                for model in models:
                    ids = json.loads(quire("tokenize", model, "--file", path, *options).stdout)
                    assert ids == expected, f"{model}, {where}, {options}: {first_difference(ids, expected, tok)}"
            ids_path.write_text(",".join(map(str, expected)))
            for model in models:
                text = quire("detokenize", model, "--file", ids_path).stdout
                assert text == tok.decode(expected, skip_special_tokens=False).encode(), f"{model}, {where}: decoded text"
    print(f"  {NUM_LINES} lines equal: {', '.join(pathlib.Path(m).name for m in models)}")


@test
def smollm2_equals_tokenizers():
    need_model()
    compare([MODEL], golden.from_gguf(MODEL), 100)


@test
def every_family_equals_tokenizers():
    """As tokenizer.json and, where llama.cpp has a name for its pre-tokenizer, as GGUF."""
    for path in sorted((GOLDEN / "tokenizers").glob("*/tokenizer.json")):
        as_gguf = path.parent.with_suffix(".gguf")
        models = [path.parent] + ([as_gguf] if as_gguf.exists() else [])
        compare(models, Tokenizer.from_file(str(path)), 2000)


if __name__ == "__main__":
    main()
