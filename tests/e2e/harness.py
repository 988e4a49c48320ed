"""What the end-to-end scripts share: the program, the model, a server for the time of a `with`, and counting.

    from harness import QUIRE, MODEL, Server, main, test

    @test
    def health_answers():
        with Server("--max-num-seqs", "4") as server:
            assert server.get("/health").status == 200

    main()          # runs every @test in order, prints "N passed, N failed", exits accordingly
"""
import http.client
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
QUIRE = os.environ.get("QUIRE_BIN", str(ROOT / "build" / "quire"))
MODEL = os.environ.get("QUIRE_TEST_MODEL", str(ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"))
GOLDEN = ROOT / "tests" / "golden"

_tests = []


def test(function):
    _tests.append(function)
    return function


class Skip(Exception):
    """Raised by a test that cannot run here; its text says why."""


def need_model():
    if not pathlib.Path(MODEL).exists():
        raise Skip(f"no model at {MODEL}: make model")


def quire(*args, timeout=120, check=True, stdin=b"", env=None):
    """Run the program; its CompletedProcess with bytes. check: a non-zero exit status is an AssertionError."""
    done = subprocess.run([QUIRE, *map(str, args)], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          timeout=timeout, env={**os.environ, **(env or {})})
    if check and done.returncode != 0:
        raise AssertionError(f"quire {' '.join(map(str, args))}: exit status {done.returncode}\n"
                             + done.stderr.decode(errors="replace"))
    return done


class Server:
    """quire serve on a free port of the loopback; stopped by SIGTERM at the end of the `with`, which must go well.
    launcher: what starts the program, mpirun and its options."""

    def __init__(self, *args, model=None, env=None, start_timeout=120, launcher=()):
        self.args, self.model, self.env, self.start_timeout = args, model or MODEL, env, start_timeout
        self.launcher = launcher

    def __enter__(self):
        self.log = tempfile.TemporaryFile()
        command = [*self.launcher, QUIRE, "serve", str(self.model), "--host", "127.0.0.1", "--port", "0", *map(str, self.args)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        env={**os.environ, **(self.env or {})})
        deadline = time.monotonic() + self.start_timeout
        while time.monotonic() < deadline and self.process.poll() is None:
            # The start-up line names the address, with the port that the system chose.
            found = re.search(r"http://127\.0\.0\.1:(\d+)", self.output())
            if found:
                self.port = int(found.group(1))
                self.url = f"http://127.0.0.1:{self.port}"
                return self
            time.sleep(0.02)
        self.process.kill()
        self.process.wait()
        raise AssertionError("the server did not start:\n" + self.output())

    def output(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def request(self, method, path, body=None, headers=None, timeout=120):
        """One HTTP request; the response with .status, .headers and .body (bytes, all of them)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            response.body = response.read()
            return response
        finally:
            connection.close()

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def rss_bytes(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1)) * 1024

    def __exit__(self, kind, value, trace):
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        if status != 0 and kind is None:
            raise AssertionError(f"the server ended with exit status {status}:\n" + self.output()[-4000:])
        if kind is not None and not issubclass(kind, Skip):
            print("server said:\n" + self.output()[-4000:])


def main():
    passed = failed = skipped = 0
    for function in _tests:
        start = time.monotonic()
        try:
            function()
            passed += 1
            outcome = "ok"
        except Skip as reason:
            skipped += 1
            outcome = f"skipped: {reason}"
        except Exception:
            failed += 1
            outcome = "FAILED"
            traceback.print_exc(file=sys.stdout)
        print(f"{function.__name__}: {outcome} ({time.monotonic() - start:.1f} s)", flush=True)
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""), flush=True)
    sys.exit(1 if failed else 0)
