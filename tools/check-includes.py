#!/usr/bin/env python3
"""Fail when a source file includes what docs/STRUCTURE.md does not allow its folder.

The table "Layout and who may include whom" is the rule: a row's third column names folders ("all of the above"
means every earlier row; "engine through quire.h" means the public header alone), its fourth the libraries.
Every folder may also include itself, quire.h and libc.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARIES = {
    "libmicrohttpd": ["microhttpd.h"],
    "jansson": ["jansson.h"],
    "PCRE2": ["pcre2.h"],
    "utf8proc": ["utf8proc.h"],
    "libcurl": ["curl/curl.h"],
    "libcrypto": ["openssl/evp.h", "openssl/sha.h"],
    "xxHash": ["xxhash.h"],
    "MPI": ["mpi.h"],
    "intrinsics": ["immintrin.h", "arm_neon.h", "cpuid.h", "sys/auxv.h", "asm/hwcap.h"],
}
LIBC = set("""assert ctype errno fcntl fenv float getopt inttypes limits locale malloc math poll pthread sched setjmp signal
stdalign stdarg stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings time unistd dirent dlfcn
libgen termios ftw fnmatch netdb semaphore arpa/inet netinet/in netinet/tcp sys/epoll sys/eventfd sys/file sys/ioctl
sys/mman sys/resource sys/select sys/socket sys/stat sys/statvfs sys/sysinfo sys/time sys/types sys/uio sys/un
sys/wait sys/random sys/prctl sys/syscall linux/limits""".split())


def rules():
    """{"src/text": (allowed folders, allowed library headers)}, in the table's order."""
    table = {}
    for line in (ROOT / "docs" / "STRUCTURE.md").read_text().splitlines():
        row = re.match(r"\| `src/(\w+)/` \|.*\| ([^|]*) \| ([^|]*) \|$", line)
        if not row:
            continue
        folder, may, libraries = row.groups()
        folders = set(table) if may == "all of the above" else set(re.findall(r"\b\w+\b(?! through)", may)) - {"h"}
        unknown = [name for name in libraries.split(", ") if name not in LIBRARIES and name != "-"]
        if unknown:
            sys.exit(f"docs/STRUCTURE.md: row src/{folder}/ names unknown libraries: {', '.join(unknown)}")
        headers = {header for name in libraries.split(", ") for header in LIBRARIES.get(name, [])}
        table[folder] = (folders | {folder}, headers)
    return table


def main():
    table = rules()
    problems, files = [], sorted(ROOT.glob("src/**/*.[ch]"))
    for path in files:
        name = path.relative_to(ROOT)
        folder = name.parts[1]
        if folder not in table:
            problems.append(f"{name}: folder src/{folder}/ has no row in docs/STRUCTURE.md")
            continue
        folders, headers = table[folder]
        for number, line in enumerate(path.read_text().splitlines(), 1):
            include = re.match(r'\s*#\s*include\s+(["<])([^">]+)[">]', line)
            if not include:
                continue
            kind, header = include.groups()
            if kind == "<":
                allowed = header.removesuffix(".h") in LIBC or header in headers
            elif header == "quire.h":
                allowed = True
            elif (path.parent / header).exists():
                allowed = True
            else:
                allowed = header.split("/")[0] in folders
            if not allowed:
                problems.append(f"{name}:{number}: src/{folder}/ may not include {header}")
    print("\n".join(problems) if problems else f"{len(files)} files include only what docs/STRUCTURE.md allows")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
