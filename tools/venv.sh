#!/bin/sh
# The Python environment of the tests, .venv, with the versions of tests/requirements.txt.   tools/venv.sh [bare]
# bare: pip alone. Does nothing when it is up to date.
set -eu
cd "$(dirname "$0")/.."

[ -x .venv/bin/python ] || {
    echo "quire: making the Python environment .venv"
    rm -rf .venv
    python3 -m venv .venv
}
[ "${1:-}" = bare ] && exit 0
cmp -s tests/requirements.txt .venv/installed && exit 0
echo "quire: installing the tests' Python packages into .venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
cp tests/requirements.txt .venv/installed
