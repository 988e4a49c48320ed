#!/usr/bin/env python3
"""Chat templates against jinja2, live: random templates, and `quire render` on the conversations of the goldens.

    test_templates.py [--seed N] [--count N]     (default: seed 1, 600 random templates)"""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import warnings

from harness import GOLDEN, MODEL, ROOT, main, need_model, quire, test
from template_grammar import Grammar

sys.path.insert(0, str(GOLDEN))
from conversations import CONVERSATIONS, WEATHER, variants  # noqa: E402
from jinja_reference import render  # noqa: E402
from make_templates import NOW, SNIPPET_VARS  # noqa: E402

warnings.simplefilter("ignore", DeprecationWarning)
OPTIONS = argparse.ArgumentParser()
OPTIONS.add_argument("--seed", type=int, default=1)
OPTIONS.add_argument("--count", type=int, default=600)
OPTIONS = OPTIONS.parse_args()


class Renderer:
    """tests/render_cases.c, one case a line."""

    def __enter__(self):
        subprocess.run(["make", "-s", "build/tests/render_cases"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        self.process = subprocess.Popen([ROOT / "build" / "tests" / "render_cases"], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)
        return self

    def render(self, template, variables):
        line = json.dumps({"template": template, "vars": variables, "now": NOW})
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __exit__(self, *_):
        self.process.stdin.close()
        assert self.process.wait() == 0


def require_same(template, variables, got, expected):
    if "text" in expected:
        same = got.get("text") == expected["text"]
    elif "raised" in expected:
        same = got.get("error", "").split(": ", 1)[-1] == expected["raised"]
    else:
        same = "error" in got
    assert same, f"template {template!r}\nvariables {json.dumps(variables)[:2000]}\njinja2 {expected}\nquire {got}"


@test
def random_templates_as_jinja2():
    num_rendered = 0
    with Renderer() as renderer:
        for seed in range(OPTIONS.seed * 1_000_000, OPTIONS.seed * 1_000_000 + OPTIONS.count):
            template = Grammar(seed).template()
            expected = render(template, SNIPPET_VARS, NOW)
            if " at 0x" in expected.get("text", ""):
                continue  # an address: the text of a Python object
            num_rendered += "text" in expected
            require_same(template, SNIPPET_VARS, renderer.render(template, SNIPPET_VARS), expected)
    assert num_rendered > OPTIONS.count // 4, "most random templates fail: the grammar is off"


@test
def damaged_templates_fail_alike():
    """Real templates with a piece cut out, doubled or replaced: the same text, or an error in both."""
    rnd = random.Random(OPTIONS.seed)
    sources = [path.read_text(encoding="utf-8") for path in sorted((GOLDEN / "templates").glob("*.jinja"))]
    cases = list(variants(full=False))
    with Renderer() as renderer:
        for _ in range(OPTIONS.count // 4):
            template, (_, variables) = rnd.choice(sources), rnd.choice(cases)
            start = rnd.randrange(len(template))
            end = min(len(template), start + rnd.choice([1, 1, 2, 5, 20, 100]))
            insert = rnd.choice(["", "", template[start:end] * 2, "-", "{{", "%}", " ", "\n", "'", "(", "|", "not "])
            template = template[:start] + insert + template[end:]
            expected = render(template, variables, NOW)
            if " at 0x" not in expected.get("text", ""):
                require_same(template, variables, renderer.render(template, variables), expected)


def render_by_cli(folder, messages, *options, check=True):
    path = pathlib.Path(folder) / "messages.json"
    path.write_text(json.dumps(messages), encoding="utf-8")
    return quire("render", MODEL, "--messages", path, *options, check=check)


@test
def render_of_the_models_own_template():
    need_model()
    template = (GOLDEN / "templates" / "smollm2.jinja").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("user", "system_user", "multi_turn", "unicode", "special_tokens", "white_space"):
            variables = {"messages": CONVERSATIONS[name], "tools": None, "documents": None, "add_generation_prompt": True,
                         "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
            expected = render(template, variables, NOW)["text"].encode()
            got = render_by_cli(folder, CONVERSATIONS[name]).stdout
            assert got in (expected, expected + b"\n"), (name, expected, got)


@test
def render_of_given_templates():
    need_model()
    with tempfile.TemporaryDirectory() as folder:
        tools = pathlib.Path(folder) / "tools.json"
        tools.write_text(json.dumps([WEATHER]), encoding="utf-8")
        for name in ("mistral_manner", "qwen_manner", "typescript_tools", "deepseek_manner"):
            path = GOLDEN / "templates" / f"{name}.jinja"
            for conversation in ("user", "tool_call", "two_users"):
                variables = {"messages": CONVERSATIONS[conversation], "tools": [WEATHER], "documents": None,
                             "add_generation_prompt": False, "bos_token": "<S>", "eos_token": "</S>"}
                expected = render(path.read_bytes().decode("utf-8"), variables, NOW)
                done = render_by_cli(folder, CONVERSATIONS[conversation], "--template", path, "--tools", tools, "--bos", "<S>",
                                     "--eos", "</S>", "--no-generation-prompt", check=False)
                if "text" in expected:
                    assert done.returncode == 0, (name, conversation, done.stderr)
                    text = expected["text"].encode()
                    assert done.stdout in (text, text + b"\n"), (name, conversation, text, done.stdout)
                else:
                    assert done.returncode != 0 and done.stdout == b"", (name, conversation, expected, done)
                    if "raised" in expected:
                        assert expected["raised"].encode() in done.stderr, (name, conversation, expected, done.stderr)


if __name__ == "__main__":
    main()
