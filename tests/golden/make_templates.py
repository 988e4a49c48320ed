#!/usr/bin/env python3
"""Writes templates/*.json: what jinja2 makes of snippets.txt and of every templates/*.jinja (see templates/README.md).

Needs jinja2 (3.1).  Usage: make_templates.py [folder]"""

import json
import pathlib
import sys

from conversations import variants
from jinja_reference import render

NOW = 1753920000  # 2025-07-31 00:00:00 UTC
SNIPPET_VARS = {
    "s": "Hello World", "u": "Ünïcödé ß Σας 日本語 😀", "n": 7, "f": 2.5, "neg": -7, "z": 0, "t": True, "none": None,
    "l": [3, 1, 2], "ls": ["b", "A", "c"], "d": {"b": 1, "a": 2, "C": 3}, "e": "", "el": [],
    "msgs": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}, {"role": "user", "content": "x"}],
    "nested": {"x": {"y": [1, {"z": "deep"}]}}, "text": "line1\nline2\n\nline4", "ws": "  pad \n",
    "html": "<a href=\"x\">&'</a>", "mixed": [1, "a", None, 2.0, True],
}


def snippets(path):
    for line in path.read_text(encoding="utf-8").split("\n"):
        if line:
            yield json.loads(line) if line.startswith('"') else line


def write(path, data):
    cases = ",\n".join(json.dumps(case, ensure_ascii=False) for case in data.pop("cases"))
    head = json.dumps(data, ensure_ascii=False, indent=1)[:-2]
    path.write_text(f'{head},\n "cases": [\n{cases}\n]}}\n', encoding="utf-8")
    print(path.name, cases.count("\n") + 1, "cases")


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else pathlib.Path(__file__).parent / "templates"
    cases = [{"template": t, **render(t, SNIPPET_VARS, NOW)} for t in snippets(folder / "snippets.txt")]
    write(folder / "snippets.json", {"now": NOW, "vars": SNIPPET_VARS, "cases": cases})
    conversations = [{"label": label, "vars": v} for label, v in variants()]
    write(folder / "conversations.json", {"now": NOW, "cases": conversations})
    for path in sorted(folder.glob("*.jinja")):
        template = path.read_bytes().decode("utf-8")
        cases = [{"label": c["label"], **render(template, c["vars"], NOW)} for c in conversations]
        write(path.with_suffix(".json"), {"template": path.name, "cases": cases})


if __name__ == "__main__":
    main()
