"""Tensor parallelism, the real program under mpirun: two processes on this machine serve one model; on the CPU over
MPI, and on two of the CUDA shim's devices over its NCCL (tests/cuda_shim)."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import time

from harness import MODEL, QUIRE, ROOT, Server, Skip, main, need_model, quire, test

TINY = ROOT / "tests" / "golden" / "tiny" / "llama"
ENV = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",  # CI runs as root, on few cores
       "OMPI_MCA_rmaps_base_oversubscribe": "1"}
TWO = ("--tensor-parallel-size", "2", "--threads", "1")


def launcher(size=2):
    if not (pathlib.Path(QUIRE).parent / "libquire-mpi.so").exists():
        raise Skip("built without MPI")
    if not shutil.which("mpirun"):
        raise Skip("no mpirun")
    return ["mpirun", "-n", str(size), "--oversubscribe", "--bind-to", "none"]


def mpirun(*args, size=2, timeout=120, env=None):
    """The program's ranks; a CompletedProcess with bytes."""
    return subprocess.run([*launcher(size), QUIRE, *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=timeout, env={**os.environ, **ENV, **(env or {})})


def cuda_env(num_devices=2, nccl=None):
    """Devices of the shim, and its NCCL or what is in another folder."""
    build = pathlib.Path(QUIRE).parent
    library, nccl = build / "libquire-cuda-shim.so", nccl or build / "shim"
    if not library.exists() or not (build / "shim" / "libnccl.so.2").exists():
        raise Skip("the CUDA shim is not built")
    return {"QUIRE_CUDA_LIBRARY": str(library), "QUIRE_SHIM_DEVICES": str(num_devices), "LD_LIBRARY_PATH": str(nccl)}


def ranks_of(server):
    """Process ids of the ranks, rank 0 first."""
    pid = server.process.pid
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    by_rank = {}
    for pid in map(int, children):
        env = pathlib.Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        rank = [word.split(b"=")[1] for word in env if word.startswith(b"OMPI_COMM_WORLD_RANK=")]
        by_rank[int(rank[0])] = pid
    return [by_rank[r] for r in sorted(by_rank)]


class Ranks(Server):
    """quire serve on two ranks; SIGTERM to rank 0 ends all of them."""

    def __init__(self, *args, env=None, **options):
        super().__init__(*TWO, *args, launcher=launcher(), env={**ENV, **(env or {})}, **options)

    def __exit__(self, kind, value, trace):
        if self.process.poll() is None and kind is None:
            os.kill(ranks_of(self)[0], signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                pass  # what follows ends mpirun and fails on its status
        super().__exit__(kind, value, trace)


def complete(server, prompt, **params):
    body = {"model": json.loads(server.get("/v1/models").body)["data"][0]["id"], "prompt": prompt, "max_tokens": 40,
            "temperature": 0, "logprobs": 1, "ignore_eos": True, **params}
    response = server.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    assert response.status == 200, response.body
    choice = json.loads(response.body)["choices"][0]
    return choice["text"], choice["logprobs"]["token_logprobs"]


def metric(server, name):
    return float(re.search(rf"^{re.escape(name)}{{[^}}]*}} (\S+)", server.get("/metrics").body.decode(), re.M).group(1))


PROMPTS = [f"{i}. The history of {topic} begins" + " long ago," * (i % 5)
           for i, topic in enumerate(["paper", "the printing press", "libraries", "ink", "a very small town"] * 4)]


@test
def ranks_compute_what_one_process_does():
    with tempfile.TemporaryDirectory() as folder:
        ids = ",".join(str(7 * i % 300 + 3) for i in range(40))
        args = ("logits", TINY, "--ids", ids, "--compute-dtype", "float32", "--out")
        quire(*args, f"{folder}/one")
        done = mpirun(*args, f"{folder}/two", *TWO)
        assert done.returncode == 0, done.stderr
        one, two = (memoryview(pathlib.Path(f"{folder}/{name}").read_bytes()).cast("f") for name in ("one", "two"))
        assert len(one) == len(two) == 40 * 384
        worst = max(abs(a - b) for a, b in zip(one, two))
        assert 0 < worst < 1e-4, worst


@test
def alone_is_under_load():
    """Few blocks, so that groups are swapped out and in on both ranks; prefixes are shared; the same logprobs."""
    need_model()
    with Ranks("--num-kv-blocks", "48", "--preemption-mode", "swap", "--swap-space", "0.1", "--max-model-len",
               "256") as server:
        assert re.search(r"ranks +2", server.output()), server.output()
        alone = [complete(server, prompt) for prompt in PROMPTS[:8]]
        assert metric(server, "vllm:prefix_cache_hits_total") == 0
        with concurrent.futures.ThreadPoolExecutor(len(PROMPTS)) as pool:
            together = list(pool.map(lambda prompt: complete(server, prompt), PROMPTS))
        assert together[:8] == alone
        assert metric(server, "quire:num_swapped_groups_total") > 0, "nothing was swapped"
        long = " ".join(PROMPTS[:4])
        first, again = complete(server, long), complete(server, long)
        assert first == again
        assert metric(server, "vllm:prefix_cache_hits_total") > 0


@test
def prefixes_outlive_a_restart():
    need_model()
    with tempfile.TemporaryDirectory() as folder:
        prompt = (ROOT / "docs" / "STRUCTURE.md").read_text()[:1500]
        with Ranks("--prefix-cache-path", folder) as server:
            first = complete(server, prompt)
        with Ranks("--prefix-cache-path", folder) as server:
            assert complete(server, prompt) == first
            assert metric(server, "vllm:external_prefix_cache_hits_total") > 100


@test
def a_client_that_leaves_frees_its_blocks():
    with Ranks("--num-kv-blocks", "60", model=TINY) as server:
        body = json.dumps({"model": "llama", "prompt": list(range(3, 43)), "max_tokens": 400, "ignore_eos": True,
                           "stream": True})
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        assert client.getresponse().readline().startswith(b"data:")
        client.close()
        deadline = time.monotonic() + 20
        while metric(server, "vllm:num_requests_running") > 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert metric(server, "vllm:num_requests_running") == 0
        complete(server, [5, 6, 7], max_tokens=5)


@test
def an_idle_server_takes_no_processor_time():
    def cpu_ticks(pid):
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    with Ranks(model=TINY) as server:
        complete(server, [5, 6, 7], max_tokens=5)
        worker = ranks_of(server)[1]
        time.sleep(0.5)
        before = cpu_ticks(worker)
        time.sleep(2)
        used = (cpu_ticks(worker) - before) / os.sysconf("SC_CLK_TCK")
        assert used < 1, f"{used} s of 2"  # polling without a pause takes all of them


def is_gone(pid):
    try:  # or dead and waiting for init to notice
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


@test
def a_rank_that_dies_ends_all():
    for rank in (1, 0):
        with contextlib.suppress(AssertionError):  # the server ends with an error, as it must
            with Ranks(model=TINY) as server:
                pids = ranks_of(server)
                os.kill(pids[rank], signal.SIGKILL)
                status = server.process.wait(30)
                assert status != 0
                said = server.output()
        assert "rank %d" % rank in said and "signal 9" in said, said
        for pid in pids:
            assert is_gone(pid), f"rank {pids.index(pid)} still runs"


LOGITS = ("logits", TINY, "--ids", ",".join(str(7 * i % 300 + 3) for i in range(40)), *TWO, "--out")


@test
def the_program_starts_its_ranks():
    """On two devices and on the CPU: the bytes of the ranks that mpirun starts."""
    with tempfile.TemporaryDirectory() as folder:
        assert mpirun(*LOGITS, f"{folder}/cpu", "--device", "cpu").returncode == 0
        quire(*LOGITS, f"{folder}/own", "--device", "cpu", env=ENV)
        quire(*LOGITS, f"{folder}/cuda", "--device", "cuda", env={**ENV, **cuda_env()})
        cpu, own, cuda = (pathlib.Path(f"{folder}/{name}").read_bytes() for name in ("cpu", "own", "cuda"))
        assert len(cpu) == 40 * 384 * 4 and cpu == own == cuda


@test
def a_signal_to_what_started_the_ranks_drains():
    launcher()
    with Server(*TWO, model=TINY, env=ENV) as server:
        body = json.dumps({"model": "llama", "prompt": [5, 6, 7], "max_tokens": 400, "ignore_eos": True,
                           "stream": True})
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        response = client.getresponse()
        assert response.readline().startswith(b"data:")
        server.process.send_signal(signal.SIGTERM)
        assert b"[DONE]" in response.read()
        client.close()
        assert server.process.wait(30) == 0, server.output()


@test
def what_started_the_ranks_takes_them_along():
    launcher()
    with contextlib.suppress(AssertionError):  # the server ends with an error, as it must
        with Server(*TWO, model=TINY, env=ENV) as server:
            started = server.process.pid
            mpirun_pid = int(pathlib.Path(f"/proc/{started}/task/{started}/children").read_text())
            ranks = list(map(int, pathlib.Path(f"/proc/{mpirun_pid}/task/{mpirun_pid}/children").read_text().split()))
            server.process.kill()
    assert len(ranks) == 2, ranks
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not all(map(is_gone, [mpirun_pid, *ranks])):
        time.sleep(0.1)
    assert all(map(is_gone, [mpirun_pid, *ranks]))


@test
def two_devices_serve_as_two_processors_do():
    """Greedy texts and logprobs, alone and at once, are the CPU ranks' to the last bit."""
    prompts = [[3 + (i * j) % 300 for j in range(8 + 5 * i)] for i in range(4)]

    def all_of(server):
        with concurrent.futures.ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: complete(server, prompt, max_tokens=12), prompts))

    with Ranks("--device", "cpu", model=TINY) as server:
        cpu = all_of(server)
    with Ranks("--device", "cuda", "--num-kv-blocks", "100", model=TINY, env=cuda_env()) as server:
        assert "cuda:0" in server.output(), server.output()
        assert [complete(server, prompt, max_tokens=12) for prompt in prompts] == cpu
        assert all_of(server) == cpu


@test
def mistakes_with_devices_are_explained():
    generate = ("generate", TINY, "--prompt", "x", *TWO)
    done = mpirun(*generate, "--device", "cuda", env=cuda_env(num_devices=1))
    assert done.returncode != 0 and b"rank 1: cuda:1: there is 1 CUDA device" in done.stderr, done.stderr
    done = mpirun(*generate, "--device", "cuda:1", env=cuda_env())
    assert done.returncode != 0 and b"CUDA_VISIBLE_DEVICES" in done.stderr, done.stderr
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "libnccl.so.2").write_text("no library")
        done = mpirun(*generate, "--device", "cuda", env=cuda_env(nccl=folder))
        assert done.returncode != 0 and b"NCCL 2.7 or later" in done.stderr, done.stderr


@test
def mistakes_are_explained():
    done = mpirun("generate", TINY, "--prompt", "x", "--tensor-parallel-size", "3", "--threads", "1")
    assert done.returncode != 0 and b"mpirun -n 3" in done.stderr, done.stderr
    done = quire("generate", TINY, "--prompt", "x", "--tensor-parallel-size", "2", check=False, env={"PATH": "/nowhere"})
    assert done.returncode == 1 and b"needs mpirun" in done.stderr, done.stderr
    done = mpirun("serve", TINY, "--tensor-parallel-size", "3", "--threads", "1", size=3)
    assert done.returncode != 0 and b"2 KV heads" in done.stderr, done.stderr


@test
def without_the_library_it_says_what_to_install():
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "quire"
        shutil.copy(QUIRE, program)
        done = subprocess.run([program, "generate", TINY, "--prompt", "x", "-tp", "2"], stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=60)
        assert done.returncode == 1 and b"openmpi" in done.stderr, done.stderr


main()
