#!/usr/bin/env python3
"""Fail when a page names what is not there: a linked file, a file or folder of the tree in `code`, a program option."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# the first two are everywhere, then pkg-config's and mpirun's
OTHERS_OPTIONS = {"--help", "--version", "--cflags", "--libs", "--bind-to", "--map-by", "--mca"}


def known_options(program):
    """Every --option that the man page lists or a script in bench/ takes."""
    page = subprocess.run([program, "help", "--man"], capture_output=True, text=True, timeout=20).stdout
    scripts = "".join(path.read_text() for path in ROOT.glob("bench/*.py"))
    return (set(re.findall(r"--[a-z][a-z0-9-]+", page.replace("\\-", "-"))) | OTHERS_OPTIONS
            | set(re.findall(r'add_argument\("(--[a-z-]+)"', scripts)))


def main():
    problems = []
    options = known_options(ROOT / "build" / "quire")
    pages = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    for page in pages:
        name = page.relative_to(ROOT)
        text = page.read_text()
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if "://" not in link and not (page.parent / link).exists():
                problems.append(f"{name}: links to {link}, which does not exist")
        for path in re.findall(r"`((?:src|tests|tools|docs|examples|include)/[\w./*-]*)`", text):
            if not list(ROOT.glob(path.rstrip("/"))):
                problems.append(f"{name}: names {path}, which does not exist")
        for option in set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)) - options:
            problems.append(f"{name}: names {option}, which the man page does not list")
    print("\n".join(problems) if problems else f"{len(pages)} pages name only what is there")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
