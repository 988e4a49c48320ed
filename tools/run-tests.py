#!/usr/bin/env python3
"""Build and run quire's tests.   tools/run-tests.py [--seconds N] [--jobs N] all | fast | fuzz | arm | cuda

    build ──► checks ──► unit ──► asan ──► tsan ──► fuzz ──► e2e          one line each, logs in build/logs/
                         (each group's programs side by side, e2e one by one)

Every program is counted by what it prints itself: cmocka's "[  PASSED  ] N test(s)", a script's last
"N passed, N failed"; a fuzz target or a check counts as one. A program that crashes, hangs or prints no
count has failed. The last line, also kept in build/logs/summary, is "N passed, N failed".
"""
import argparse
import concurrent.futures
import ctypes
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "logs"
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TIMEOUT_S = 900
CUDA_TIMEOUT_S = 3600  # compute-sanitizer takes its time
E2E_ASAN = ("test_soak",)  # also with the sanitizers' build of the program
SANITIZERS = {
    "ASAN_OPTIONS": "detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


@dataclasses.dataclass
class Job:
    name: str  # "unit/test_kv"
    command: list
    count: str  # how to count: "cmocka" | "script" | "one"
    env: dict = dataclasses.field(default_factory=dict)
    timeout_s: int = TIMEOUT_S


@dataclasses.dataclass
class Result:
    passed: int
    failed: int
    skipped: int
    note: str = ""


def count_cmocka(text):
    def total(word):
        return sum(int(n) for n in re.findall(rf"\[  {word} ?\] (\d+) test\(s\)", text))

    ran = sum(int(n) for n in re.findall(r"(\d+) test\(s\) run\.", text))
    result = Result(total("PASSED "), total("FAILED "), total("SKIPPED"))
    missing = ran - result.passed - result.failed - result.skipped
    if ran == 0:
        return Result(0, 1, 0, "printed no test count")
    if missing > 0:
        result.failed += missing
    return result


def count_script(text):
    found = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?", text, re.M)
    if not found:
        return Result(0, 1, 0, "printed no test count")
    passed, failed, skipped = found[-1]
    return Result(int(passed), int(failed), int(skipped or 0))


def run_job(job):
    """Run one job to its end or its time limit; nothing it started outlives it."""
    log = LOGS / (job.name.replace("/", "-") + ".log")
    start = time.monotonic()
    with open(log, "wb") as out:
        env = {**os.environ, "QUIRE_BIN": str(ROOT / "build" / "quire"), **SANITIZERS, **job.env}
        process = subprocess.Popen(job.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        try:
            status = process.wait(job.timeout_s)
            note = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        except subprocess.TimeoutExpired:
            status, note = 1, f"ran past {job.timeout_s} s"
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    text = log.read_text(errors="replace")
    if job.count == "cmocka":
        result = count_cmocka(text)
    elif job.count == "script":
        result = count_script(text)
    else:
        result = Result(int(status == 0), int(status != 0), 0)
    if status != 0:
        result.note = note
        result.failed = max(result.failed, 1)
    return job, result, time.monotonic() - start, text


class Runner:
    def __init__(self, jobs, seconds):
        self.workers, self.seconds = jobs, seconds
        self.total = Result(0, 0, 0)
        self.failures = []

    def report(self, job, result, seconds, text):
        self.total.passed += result.passed
        self.total.failed += result.failed
        self.total.skipped += result.skipped
        counts = f"{result.passed} passed"
        counts += f", {result.failed} failed" if result.failed else ""
        counts += f", {result.skipped} skipped" if result.skipped else ""
        mark = "FAIL" if result.failed else " ok "
        print(f"  {mark}  {job.name:<34} {counts:<28} {seconds:6.1f} s  {result.note}".rstrip(), flush=True)
        if result.failed:
            self.failures.append(job.name)
            print("".join(f"        | {line}\n" for line in text.splitlines()[-40:]), flush=True)

    def group(self, jobs, workers=None):
        with concurrent.futures.ThreadPoolExecutor(workers or self.workers) as pool:
            for done in concurrent.futures.as_completed([pool.submit(run_job, job) for job in jobs]):
                self.report(*done.result())

    def make(self, target):
        """One build; False, counted as a failure, when it fails."""
        job = Job(f"make/{target}", ["make", "--no-print-directory", f"-j{self.workers}", target], "one",
                  timeout_s=1200)
        before = self.total.failed
        self.group([job])
        return self.total.failed == before

    def finish(self):
        summary = f"{self.total.passed} passed, {self.total.failed} failed"
        if self.failures:
            print(f"\nfailed: {' '.join(self.failures)}   (logs in build/logs/)")
        if self.total.skipped:
            print(f"{self.total.skipped} skipped")
        print(summary, flush=True)
        (LOGS / "summary").write_text(summary + "\n")
        return 1 if self.total.failed or not self.total.passed else 0


def sources(pattern):
    return sorted(path.stem for path in ROOT.glob(pattern))


def checks():
    return [Job(f"check/{name}", ["make", "-s", f"check-{name}"], "one") for name in ("format", "includes", "docs")]


def unit(build, label, env=None, wrap=()):
    programs = [name for name in sources("tests/test_*.c*") if (ROOT / build / "tests" / name).exists()]
    return [Job(f"{label}/{name}", [*wrap, f"{build}/tests/{name}"], "cmocka", env or {}) for name in programs]


def fuzz(seconds):
    jobs = []
    for name in sources("tests/fuzz/fuzz_*.c"):
        target = name.removeprefix("fuzz_")
        grown = ROOT / "build-asan" / "corpus" / target
        grown.mkdir(parents=True, exist_ok=True)
        command = [f"build-asan/fuzz/{name}", f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048",
                   "-print_final_stats=1", f"-artifact_prefix=build/logs/{target}-", str(grown)]
        seeds = ROOT / "tests" / "fuzz" / "corpus" / target
        words = ROOT / "tests" / "fuzz" / f"{target}.dict"
        command += [str(seeds)] if seeds.is_dir() else []
        command += [f"-dict={words}"] if words.is_file() else []
        jobs.append(Job(f"fuzz/{target}", command, "one", timeout_s=seconds + TIMEOUT_S))
    return jobs


def e2e():
    python = str(ROOT / ".venv" / "bin" / "python")
    jobs = [Job(f"e2e/{name}", [python, f"tests/e2e/{name}.py"], "script") for name in sources("tests/e2e/test_*.py")]
    # freed memory that ASan keeps back would look like growth
    asan = {"QUIRE_BIN": str(ROOT / "build-asan" / "quire"),
            "ASAN_OPTIONS": SANITIZERS["ASAN_OPTIONS"] + ":quarantine_size_mb=8:thread_local_quarantine_size_kb=16"}
    return jobs + [Job(f"asan/e2e/{name}", [python, f"tests/e2e/{name}.py"], "script", asan) for name in E2E_ASAN]


def compile_cuda(runner):
    """Every .cu for all architectures, warnings being errors, where there is nvcc."""
    if subprocess.run(["make", "-s", "have-nvcc"], cwd=ROOT, check=False).returncode == 0:
        runner.make("gpu-tests")


def run_all(runner):
    if runner.make("tests"):
        runner.group(checks())
        runner.group(unit("build", "unit"))
    compile_cuda(runner)
    if runner.make("asan"):
        runner.group(unit("build-asan", "asan"))
    if runner.make("tsan"):
        # Address randomization can put mappings where ThreadSanitizer's shadow belongs.
        runner.group(unit("build-tsan", "tsan", wrap=("setarch", "-R")))
    if (ROOT / "build-asan" / "fuzz").is_dir():
        runner.group(fuzz(runner.seconds))
    runner.group(e2e(), workers=1)


def run_fast(runner):
    if runner.make("tests"):
        runner.group(checks())
        runner.group(unit("build", "unit"))
    compile_cuda(runner)


def run_arm(runner):
    if runner.make("arm"):
        runner.group([Job(f"arm/{path.name}", ["qemu-aarch64", str(path)], "cmocka")
                      for path in sorted((ROOT / "build-arm" / "tests").glob("test_*")) if path.suffix == ""])


def num_gpus():
    """As the driver counts them."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    return count.value if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else 0


def run_cuda(runner):
    """The tests that elsewhere run over the shim, on the GPU."""
    library = {"QUIRE_CUDA_LIBRARY": str(ROOT / "build" / "libquire-cuda.so")}
    sanitizer = shutil.which("compute-sanitizer", path=f"{os.environ['PATH']}:/usr/local/cuda/bin") or "compute-sanitizer"
    if not (runner.make("tests") and runner.make("gpu-tests")):
        return
    ops = ["build/tests/test_backend", "build/tests/test_backend_attention",
           *(f"build/gpu/{name}" for name in sources("tests/test_*.cu"))]
    runner.group([Job(f"gpu/{pathlib.Path(path).name}", [path], "cmocka", library, CUDA_TIMEOUT_S)
                  for path in (*ops, "build/tests/test_engine_golden", "build/tests/test_determinism")], workers=1)
    for tool in ("memcheck", "racecheck"):
        runner.group([Job(f"{tool}/{pathlib.Path(path).name}", [sanitizer, "--tool", tool, "--error-exitcode", "99", path],
                          "cmocka", library, CUDA_TIMEOUT_S) for path in ops], workers=1)


def main():
    parser = argparse.ArgumentParser(description="Build and run quire's tests.")
    parser.add_argument("what", choices=("all", "fast", "fuzz", "arm", "cuda"))
    parser.add_argument("--seconds", type=int, default=10, help="per fuzz target (default 10)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="side by side")
    args = parser.parse_args()
    if args.what == "cuda" and num_gpus() == 0:
        print("check-cuda: the driver finds no NVIDIA GPU here; what can be tested without one is in make check-fast")
        return 1
    LOGS.mkdir(parents=True, exist_ok=True)
    (LOGS / "summary").unlink(missing_ok=True)
    if MODEL.exists():
        os.environ.setdefault("QUIRE_TEST_MODEL", str(MODEL))
    if args.what != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # --device auto is the CPU wherever this runs
    runner = Runner(args.jobs, args.seconds)
    {"all": run_all, "fast": run_fast, "arm": run_arm, "cuda": run_cuda,
     "fuzz": lambda r: r.group(fuzz(r.seconds))}[args.what](runner)
    return runner.finish()


if __name__ == "__main__":
    sys.exit(main())
