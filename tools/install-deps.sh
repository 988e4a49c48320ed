#!/bin/sh
# Install the Debian packages that quire needs and that are missing.   tools/install-deps.sh [build] [check] [arm]
# Asks once when a terminal is attached; with CI=true or without a terminal it goes ahead. Nothing missing: silent.
set -eu

packages=""
for group in "${@:-build}"; do
    case $group in
    build)
        packages="$packages make pkg-config libmicrohttpd-dev libjansson-dev libpcre2-dev libutf8proc-dev
            libcurl4-openssl-dev libxxhash-dev libc6-dev python3 python3-pip ca-certificates"
        command -v cc >/dev/null || packages="$packages gcc"
        ;;
    check) packages="$packages gcc g++ git libcmocka-dev clang-14 libclang-rt-14-dev clang-format-14 python3-venv
        openmpi-bin libopenmpi-dev" ;;
    arm) packages="$packages gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user" ;;
    *)
        echo "usage: $0 [build] [check] [arm]" >&2
        exit 2
        ;;
    esac
done

if ! command -v dpkg-query >/dev/null; then
    echo "quire: this is no Debian system; the packages needed are called, on Debian:" $packages >&2
    echo "quire: going on, as they may be there under other names" >&2
    exit 0
fi

missing=""
for package in $packages; do
    # shellcheck disable=SC2016
    case $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true) in
    installed*) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

sudo=""
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || {
        echo "quire: as root, please:  apt-get install$missing" >&2
        exit 1
    }
    sudo=sudo
fi

echo "quire: Debian packages to install:$missing"
if [ -t 0 ] && [ "${CI:-}" != true ]; then
    printf 'quire: install them now with apt-get? [Y/n] '
    read -r answer
    case $answer in
    "" | [Yy]*) ;;
    *)
        echo "quire: nothing installed"
        exit 1
        ;;
    esac
fi

export DEBIAN_FRONTEND=noninteractive
echo "quire: reading package lists"
$sudo apt-get update -q -o Dpkg::Use-Pty=0
echo "quire: installing"
# shellcheck disable=SC2086
$sudo apt-get install -q -y --no-install-recommends -o Dpkg::Use-Pty=0 $missing
