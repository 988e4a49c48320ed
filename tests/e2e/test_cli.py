"""The command line: help, mistakes, every offline command, pipes, and disks that are full."""
import json
import os
import pathlib
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request

from harness import GOLDEN, MODEL, QUIRE, ROOT, Server, Skip, main, need_model, quire, test

COMMANDS = ["serve", "chat", "generate", "tokenize", "detokenize", "render", "logits", "inspect", "pull",
            "bench throughput", "bench latency", "bench sharing", "bench step", "bench kernels", "bench serve"]
TINY = GOLDEN / "tiny" / "llama"
SMALL_CACHE = ["--kv-cache-memory-bytes", "64MiB", "--threads", "1"]
folder = pathlib.Path(tempfile.mkdtemp(prefix="quire-test-cli-"))


def fails(status, *args, stdin=b"", **options):
    done = quire(*args, check=False, stdin=stdin, **options)
    assert done.returncode == status, (args, done.returncode, done.stderr)
    text = done.stderr.decode()
    assert text.startswith("quire: "), text
    return text


def generate(*args, **options):
    return quire("generate", MODEL, *SMALL_CACHE, *args, **options)


def lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


# ---- help and mistakes


@test
def overview_and_version():
    overview = quire().stdout.decode()
    for command in COMMANDS:
        assert re.search(rf"^  {command}\s+\w", overview, re.M), command
    assert quire("--help").stdout.decode() == overview
    assert re.fullmatch(r"quire \d+\.\d+\.\d+\n", quire("--version").stdout.decode())


@test
def version_is_quick_and_the_program_small():
    best = min(timed(lambda: subprocess.run([QUIRE, "--version"], stdout=subprocess.DEVNULL)) for _ in range(20))
    print(f"  quire --version: {best * 1000:.1f} ms, {os.path.getsize(QUIRE) / 2**20:.2f} MiB")
    assert best < 0.010, best
    assert os.path.getsize(QUIRE) < 3 << 20


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@test
def every_command_explains_itself():
    for command in COMMANDS:
        text = quire(*command.split(), "--help").stdout.decode()
        assert text == quire("help", *command.split()).stdout.decode()
        assert text.startswith(f"usage: quire {command} "), text
        assert "\nExamples\n  " in text and "\nGeneral\n" in text
        assert max(map(len, text.split("\nExamples\n")[1].split("\n\n")[1].splitlines())) <= 80
        assert "\033" not in text


@test
def the_flags_of_vllm_are_there():
    text = quire("serve", "--help").stdout.decode()
    for name in ["max-model-len", "max-num-seqs", "max-num-batched-tokens", "block-size", "num-kv-blocks",
                 "num-gpu-blocks-override", "kv-cache-memory-bytes", "gpu-memory-utilization", "kv-cache-dtype",
                 "compute-dtype", "threads", "device", "[no-]enable-chunked-prefill", "[no-]enable-prefix-caching",
                 "scheduling-policy", "kv-allocator", "max-num-queued-reqs", "seed", "host", "port", "api-key", "served-model-name",
                 "chat-template", "log-level"]:
        assert f"--{name}" in text, name


@test
def mistakes_exit_with_2_and_a_hint():
    assert "did you mean --max-num-seqs?" in fails(2, "serve", "x", "--max-num-seq", "4")
    assert "did you mean 'generate'?" in fails(2, "genrate")
    assert "did you mean 'bench serve'?" in fails(2, "bench", "srve")
    assert "try: quire generate --help" in fails(2, "generate", MODEL)
    assert "MODEL is missing" in fails(2, "generate", "-p", "x")
    assert "give one of" in fails(2, "generate", MODEL, "-p", "x", "--file", "y")
    assert "not one of float32" in fails(2, "serve", "x", "--kv-cache-dtype", "int3").replace("auto|float16|", "")
    assert "unexpected argument" in fails(2, "inspect", "a", "b")
    assert "needs a value" in fails(2, "serve", "x", "--port")


@test
def empty_and_absurd_values_are_refused():
    assert "--api-key is empty" in fails(2, "serve", TINY, "--api-key", "")
    assert "--served-model-name is empty" in fails(2, "serve", TINY, "--served-model-name", "")
    assert "from 0 to 1000000000000000" in fails(2, "serve", TINY, "--num-kv-blocks", "-1")
    for size in (["--kv-cache-memory-bytes", "4000000GiB"], ["--num-kv-blocks", "2000000000", "--block-size", "128"]):
        text = fails(1, "serve", TINY, *size)
        assert "but this machine or its cgroup has" in text, text


@test
def contexts_longer_than_trained_are_pointed_out():
    with Server("--max-model-len", "1025", "--kv-cache-memory-bytes", "16MiB", model=TINY) as server:
        assert "beyond the 512 positions" in server.output(), server.output()


@test
def missing_and_broken_models_exit_with_1():
    for command in [["generate", "-p", "x"], ["tokenize", "-p", "x"], ["inspect"], ["chat"], ["serve"],
                    ["logits", "--ids", "1", "--out", folder / "x"], ["bench", "latency"]]:
        split = 2 if command[0] == "bench" else 1
        text = fails(1, *command[:split], folder / "none.gguf", *command[split:])
        assert "none.gguf" in text and text.count("\n") == 1, text
    broken = folder / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    assert "broken.gguf" in fails(1, "inspect", broken)


# ---- text


@test
def tokenize_and_detokenize_are_inverse():
    need_model()
    text = "Hello, wörld! \U0001f30d 123\n\ttabs\r\n<|im_start|>".encode()
    path = folder / "text"
    path.write_bytes(text)
    ids = json.loads(quire("tokenize", MODEL, "--file", path).stdout)
    assert ids and all(isinstance(i, int) for i in ids)
    assert quire("detokenize", MODEL, "--ids", ",".join(map(str, ids))).stdout == text
    (folder / "ids").write_text(json.dumps(ids))
    assert quire("detokenize", MODEL, "--file", folder / "ids").stdout == text
    assert json.loads(quire("tokenize", MODEL, "--file", "-", stdin=text).stdout) == ids
    plain = json.loads(quire("tokenize", MODEL, "--file", path, "--no-parse-special").stdout)
    assert len(plain) > len(ids) and quire("detokenize", MODEL, "--ids", plain).stdout == text
    assert json.loads(quire("tokenize", MODEL, "--file", "-", stdin=b"").stdout) == []
    fails(1, "detokenize", MODEL, "--ids", "99999999")
    fails(1, "detokenize", MODEL, "--ids", "1,x")
    fails(1, "tokenize", MODEL, "--file", folder / "none")


@test
def render_prints_the_exact_prompt():
    messages = folder / "messages.json"
    messages.write_text(json.dumps([{"role": "user", "content": "Hi"}]))
    template = folder / "t.jinja"
    template.write_text("{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
                        "{% if tools %}{{ tools | length }}{% endif %}{% if add_generation_prompt %}>{% endif %}")
    tools = folder / "tools.json"
    tools.write_text('[{"type": "function", "function": {"name": "f"}}]')
    common = ["render", "--template", template, "--messages", messages]
    assert quire(*common, "--bos", "<s>").stdout == b"<s>[user]Hi>"
    assert quire(*common, "--bos", "", "--no-generation-prompt", "--tools", tools).stdout == b"[user]Hi1"
    template.write_text("{{ raise_exception('not today') }}")
    assert "not today" in fails(1, *common)
    messages.write_text("{")
    fails(1, *common)
    fails(2, "render", MODEL)
    fails(2, "render", "--messages", messages)


@test
def render_uses_the_models_template():
    need_model()
    messages = json.dumps([{"role": "system", "content": "S"}, {"role": "user", "content": "Hi"}]).encode()
    prompt = quire("render", MODEL, "--messages", "-", stdin=messages).stdout.decode()
    assert prompt == "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", prompt


@test
def logits_are_written():
    out = folder / "logits"
    quire("logits", TINY, "--ids", "1,2,3", "--out", out, "--compute-dtype", "float32")
    data = out.read_bytes()
    assert len(data) == 3 * 384 * 4
    values = struct.unpack("<1152f", data)
    assert all(value == value and abs(value) < 1e4 for value in values)
    assert quire("logits", TINY, "--ids", "[1, 2, 3]", "--out", "-", "--compute-dtype", "float32").stdout == data
    fails(1, "logits", TINY, "--ids", "1,400", "--out", out)
    fails(2, "logits", TINY, "--ids", "1")


@test
def inspect_shows_tables_and_json():
    document = json.loads(quire("inspect", TINY, "--json").stdout)
    assert document["format"] == "safetensors" and len(document["tensors"]) > 10
    text = quire("inspect", TINY).stdout.decode()
    assert "metadata" in text and "tensors (" in text and document["tensors"][0]["name"] in text
    if os.path.exists(MODEL):
        document = json.loads(quire("inspect", MODEL, "--json").stdout)
        assert document["format"] == "gguf" and "tokenizer" in document
        assert "tokenizer" in quire("inspect", MODEL).stdout.decode()


# ---- generate


@test
def generate_is_deterministic():
    need_model()
    greedy = generate("-p", "The capital of France is", "--temperature", 0, "--max-tokens", 12).stdout
    assert b"Paris" in greedy and greedy.endswith(b"\n"), greedy
    assert generate("-p", "-", "--temperature", 0, "--max-tokens", 12, stdin=b"The capital of France is").stdout == greedy
    sampled = [generate("-p", "Once", "--seed", seed, "--max-tokens", 16).stdout for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
    echoed = generate("-p", "The capital of France is", "--temperature", 0, "--max-tokens", 12, "--echo").stdout
    assert echoed == b"The capital of France is" + greedy
    both = generate("-p", "Once", "--seed", 1, "--max-tokens", 16, "-n", 2).stdout
    assert both.startswith(sampled[0] + b"---\n"), both


@test
def generate_json_has_everything():
    need_model()
    done = generate("-p", "One two three", "--json", "--temperature", 0, "--max-tokens", 5, "--logprobs", 2,
                    "--prompt-logprobs", 1, "--ignore-eos")
    result = json.loads(done.stdout)
    choice, = result["choices"]
    assert result["index"] == 0 and choice["index"] == 0 and choice["finish_reason"] == "length"
    assert len(choice["token_ids"]) == 5 == len(choice["logprobs"]["token_logprobs"])
    assert len(choice["prompt_logprobs"]) == result["usage"]["prompt_tokens"] and result["usage"]["completion_tokens"] == 5
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    ids = json.loads(quire("tokenize", MODEL, "-p", "One two three").stdout)
    again = generate("--ids", ids, "--json", "--temperature", 0, "--max-tokens", 5, "--logprobs", 2, "--prompt-logprobs", 1,
                     "--ignore-eos")
    assert json.loads(again.stdout)["choices"] == result["choices"]


@test
def sampling_options_reach_the_request():
    need_model()
    base = ["-p", "Count: 1 2 3 4", "--temperature", 0, "--max-tokens", 20]
    whole = generate(*base).stdout.decode().rstrip("\n")
    stop = whole[8:11]
    cut = json.loads(generate(*base, "--json", "--stop", stop).stdout)["choices"][0]
    assert cut["text"] == whole[:whole.index(stop)] and cut["finish_reason"] == "stop" and cut["stop_reason"] == stop
    kept = json.loads(generate(*base, "--json", "--stop", stop, "--include-stop-str-in-output").stdout)["choices"][0]
    assert kept["text"] == whole[:whole.index(stop)] + stop
    first = json.loads(generate(*base, "--json").stdout)["choices"][0]["token_ids"]
    biased = json.loads(generate(*base, "--json", "--logit-bias", json.dumps({str(first[0]): -100})).stdout)
    assert biased["choices"][0]["token_ids"][0] != first[0]
    stopped = json.loads(generate(*base, "--json", "--stop-token-ids", first[3]).stdout)["choices"][0]
    assert stopped["finish_reason"] == "stop" and stopped["stop_reason"] == first[3]
    for bad in (["--top-p", 2], ["--temperature", -1], ["--min-p", 7], ["--logit-bias", "1:2"], ["--n", 0]):
        text = fails(1, "generate", MODEL, *SMALL_CACHE, "-p", "x", *bad)
        assert bad[0][2:].replace("-", "_") in text or bad[0] in text, text


@test
def a_prompt_that_cannot_fit_says_the_numbers():
    need_model()
    text = fails(1, "generate", MODEL, *SMALL_CACHE, "--max-model-len", 32, "-p", "word " * 100)
    assert "32" in text, text


@test
def batches_keep_order_and_survive_bad_lines():
    need_model()
    requests = [json.dumps({"prompt": f"{i} plus {i} is", "max_tokens": 1 + i % 7, "temperature": 0}) for i in range(20)]
    requests[3] = '{"prompt": "x", "temperature": -1}'
    requests[5] = "not json"
    requests[7] = json.dumps({"prompt_token_ids": [1, 2, 3], "max_tokens": 4, "ignore_eos": True, "logprobs": 1})
    requests[9] = json.dumps({"prompt": "Hi", "n": 3, "seed": 5, "max_tokens": 3, "stop": ["\n\n"]})
    requests[11] = json.dumps({"prompt": "word " * 9000})
    source, target = folder / "requests.jsonl", folder / "results.jsonl"
    source.write_text("\n".join(requests[:10]) + "\n\n   \n" + "\n".join(requests[10:]))
    text = fails(1, "generate", MODEL, *SMALL_CACHE, "--file", source, "--out", target)
    assert "3 of 20 requests failed" in text and text.count("\n") == 1, text
    results = lines(target)
    assert [r["index"] for r in results] == list(range(20))
    assert {i for i, r in enumerate(results) if "error" in r} == {3, 5, 11}
    assert results[3]["error"]["param"] == "temperature" and "JSON" in results[5]["error"]["message"]
    assert len(results[7]["choices"][0]["token_ids"]) == 4 == len(results[7]["choices"][0]["logprobs"]["tokens"])
    assert [c["index"] for c in results[9]["choices"]] == [0, 1, 2]
    for i, result in enumerate(results):
        if "choices" in result:
            assert set(result) == {"index", "choices", "usage"}
            assert result["usage"]["completion_tokens"] == sum(len(c["token_ids"]) for c in result["choices"])
    return_code_ok = quire("generate", MODEL, *SMALL_CACHE, "--file", "-", stdin=requests[0].encode())
    only = json.loads(return_code_ok.stdout)
    assert only["choices"] == results[0]["choices"]

    # A full queue, a tiny pool and tiny steps: the same answers.
    quire("generate", MODEL, "--file", source, "--out", folder / "again.jsonl", "--max-num-queued-reqs", 2, "--max-num-seqs",
          3, "--num-kv-blocks", 600, "--max-num-batched-tokens", 64, "--no-enable-prefix-caching", check=False)
    again = lines(folder / "again.jsonl")
    assert [r.get("choices") for r in again] == [r.get("choices") for r in results]


@test
def options_are_the_defaults_of_a_batch():
    need_model()
    requests = b'{"prompt": "a"}\n{"prompt": "a", "max_tokens": 3}\n'
    done = generate("--file", "-", "--max-tokens", 5, "--ignore-eos", "--temperature", 0, stdin=requests)
    counts = [json.loads(line)["usage"]["completion_tokens"] for line in done.stdout.splitlines()]
    assert counts == [5, 3], counts
    done = generate("--file", "-", "--ignore-eos", stdin=requests)
    assert json.loads(done.stdout.splitlines()[0])["usage"]["completion_tokens"] == 16


# ---- pipes and disks


@test
def a_full_disk_is_reported():
    commands = [["--version"], ["help", "serve"], ["inspect", TINY], ["logits", TINY, "--ids", "1", "--out", "-"]]
    if os.path.exists(MODEL):
        commands += [["tokenize", MODEL, "-p", "x"], ["generate", MODEL, *SMALL_CACHE, "-p", "x", "--max-tokens", "4"]]
    for command in commands:
        with open("/dev/full", "wb") as full:
            done = subprocess.run([QUIRE, *map(str, command)], stdout=full, stderr=subprocess.PIPE, timeout=60)
        assert done.returncode == 1 and b"No space left" in done.stderr, (command, done)
    assert "/dev/full" in fails(1, "logits", TINY, "--ids", "1", "--out", "/dev/full")


@test
def a_batch_on_a_full_disk_stops():
    need_model()
    text = fails(1, "generate", MODEL, *SMALL_CACHE, "--file", "-", "--out", "/dev/full", stdin=b'{"prompt": "a"}\n' * 3)
    assert "No space left" in text and text.count("\n") == 1, text


@test
def a_closed_output_is_reported():
    done = subprocess.run(["sh", "-c", f"'{QUIRE}' --version >&-"], stderr=subprocess.PIPE, timeout=20)
    assert done.returncode == 1 and b"standard output" in done.stderr, done
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([QUIRE, "inspect", TINY, "--json"], stdout=writer, stderr=subprocess.PIPE, timeout=20)
    os.close(writer)
    assert done.returncode == 1 and b"Broken pipe" in done.stderr, done


@test
def an_answer_nobody_reads_is_stopped():
    need_model()
    process = subprocess.Popen([QUIRE, "generate", MODEL, *SMALL_CACHE, "-p", "Once", "--ignore-eos", "--max-tokens", "4000"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(30) == 1
    process.stderr.close()


# ---- chat


@test
def chat_reads_lines_from_a_pipe():
    need_model()
    script = b"What is 2+2?\n/help\n\n/reset\n/system Be brief.\nHi\n/nonsense\n/quit\nnever read\n"
    done = quire("chat", MODEL, *SMALL_CACHE, "--temperature", 0, "--max-tokens", 8, stdin=script)
    text = done.stdout.decode()
    assert "/reset " in text and "(conversation forgotten)" in text and "unknown command /nonsense" in text
    assert "\033" not in text and "> " not in text
    again = quire("chat", MODEL, *SMALL_CACHE, "--temperature", 0, "--max-tokens", 8, stdin=script)
    assert again.stdout == done.stdout


@test
def chat_forgets_what_no_longer_fits():
    need_model()
    script = b"\n".join(b"Tell me about number %d, please, in many words." % i for i in range(5)) + b"\n"
    done = quire("chat", MODEL, *SMALL_CACHE, "--temperature", 0, "--max-tokens", 6, "--max-model-len", 128, stdin=script)
    assert b"forgot the" in done.stderr and len(done.stdout.splitlines()) >= 5


class Terminal:
    """A program under a pseudo-terminal."""

    def __init__(self, *args):
        self.process_id, self.fd = pty.fork()
        if self.process_id == 0:
            os.execv(QUIRE, [QUIRE, *map(str, args)])
        self.text = ""

    def wait_for(self, pattern, timeout=60):
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text, re.S):
            if time.monotonic() > deadline:
                raise AssertionError(f"never saw {pattern!r} in {self.text!r}")
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.fd, 65536).decode(errors="replace")
                except OSError:
                    break
        found, self.text = self.text, ""
        return found

    def send(self, data):
        os.write(self.fd, data)

    def end(self):
        status = os.waitstatus_to_exitcode(os.waitpid(self.process_id, 0)[1])
        os.close(self.fd)
        return status


@test
def chat_on_a_terminal_survives_control_c():
    need_model()
    terminal = Terminal("chat", MODEL, *SMALL_CACHE, "--ignore-eos")
    terminal.wait_for(r"/help lists the commands.*> ")
    terminal.send(b"Tell me a very long story.\n")
    terminal.wait_for(r"\w{3,}.*\w{3,} \w+ \w+ ")
    terminal.send(b"\x03")  # in an answer: the answer ends
    terminal.wait_for(r"\n> ")
    terminal.send(b"\x03")  # at the prompt: a hint
    terminal.wait_for(r"/quit or Ctrl-D.*> ")
    terminal.send(b"/stats\n")
    terminal.wait_for(r"tokens/s.*> ")
    terminal.send(b"\x04")
    assert terminal.end() == 0


@test
def control_c_stops_a_batch():
    need_model()
    source, target = folder / "many.jsonl", folder / "many.out"
    source.write_text('{"prompt": "Once", "ignore_eos": true, "max_tokens": 8}\n' * 2000)
    process = subprocess.Popen([QUIRE, "generate", MODEL, *SMALL_CACHE, "--file", source, "--out", target],
                               stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (target.exists() and target.read_bytes().count(b"\n") > 5):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1 and b"stopped after" in error, error
    results = lines(target)  # whole lines only
    assert 5 < len(results) < 2000 and all("choices" in r for r in results)


# ---- serve and bench


@test
def serve_says_what_it_has_and_drains():
    need_model()
    with Server(*SMALL_CACHE, "--max-model-len", 512, "--threads", 1) as server:
        text = server.output()
        assert re.search(r"KV cache +\d+ blocks of 16 = \d+ tokens = [\d.]+ sequences of 512 \(float16, ", text), text
        assert re.search(r"compute +int8 on cpu \(\w+, 1 thread", text), text
        assert "Q4_1" in text
        assert server.get("/health").status == 200
        taken = fails(1, "serve", MODEL, *SMALL_CACHE, "--port", server.port)
        assert str(server.port) in taken


@test
def a_first_signal_drains_a_second_one_ends():
    need_model()
    for second in (False, True):
        tokens = 2800 if second else 60
        process = subprocess.Popen([QUIRE, "serve", MODEL, *SMALL_CACHE, "--port", "0"], stderr=subprocess.PIPE)
        port = re.search(rb"http://127.0.0.1:(\d+)", b"".join(iter_until(process.stderr, b"http://"))).group(1).decode()
        client = subprocess.Popen([QUIRE, "bench", "serve", "--port", port, "--num-prompts", "1", "--random-input-len", "4",
                                   "--random-output-len", str(tokens), "--ignore-eos", "--json"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        while b"requests_running{" not in (metrics := fetch(port, "/metrics")) or \
                not re.search(rb"num_requests_running\{[^}]*\} [1-9]", metrics):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        if second:
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
        error = process.stderr.read()
        assert process.wait(60) == (1 if second else 0), error
        assert b"1 request to finish" in error, error
        result = json.loads(client.communicate(timeout=60)[0])
        assert result["completed"] == (0 if second else 1)
        if second:
            assert b"unfinished" in error


def fetch(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as response:
        return response.read()


def iter_until(stream, word):
    while True:
        line = stream.readline()
        yield line
        if not line or word in line:
            return


@test
def baselines_are_chosen_by_name():
    need_model()  # the tiny one may finish the first requests before the last ones are sent
    pool = ["--num-kv-blocks", 135, "--max-model-len", 384]
    work = ["--num-prompts", 20, "--random-input-len", 40, "--random-output-len", 40]
    running = {}
    for name in ["vllm", "vllm-v0", "orca-max", "orca-pow2", "orca-oracle", "faster-transformer"]:
        result = json.loads(quire("bench", "throughput", MODEL, *pool, *work, "--kv-allocator", name, "--json").stdout)
        assert result["kv_allocator"] == name and result["kv_blocks_in_use"] == 0
        uses = [result[f"kv_{use}_fraction"] for use in ["live", "reserved", "internal", "external", "unused"]]
        assert abs(sum(uses) - 1) < 1e-9 and min(uses) >= 0, uses
        running[name] = result["mean_requests_running"]
    assert running["orca-max"] <= 4 < running["orca-oracle"] < running["vllm"], running  # 4 regions of 32 blocks
    for name, option, why in [("orca-max", "--enable-prefix-caching", "shares nothing"),
                              ("orca-pow2", "--enable-chunked-prefill", "computes prompts whole"),
                              ("orca-oracle", "--preemption-mode=swap", "never preempts"),
                              ("orca", "--json", "not one of")]:
        text = fails(2 if name == "orca" else 1, "bench", "throughput", TINY, "--kv-allocator", name, option)
        assert why in text, text


@test
def bench_serve_reports_vllms_fields():
    need_model()
    with Server(*SMALL_CACHE, "--max-model-len", 512) as server:
        common = ["bench", "serve", "--port", server.port, "--num-prompts", 8, "--random-input-len", 20,
                  "--random-output-len", 6, "--ignore-eos", "--max-concurrency", 4]
        result = json.loads(quire(*common, "--json", "--metric-percentiles", "50,99", "--save-detailed", "--result-dir",
                                  folder, "--result-filename", "bench.json").stdout)
        assert result["completed"] == 8 and result["failed"] == 0
        assert result["total_input_tokens"] == 160 and result["total_output_tokens"] == 48
        for name in ["duration", "request_throughput", "output_throughput", "total_token_throughput"]:
            assert result[name] > 0, name
        for metric in ["ttft", "tpot", "itl", "e2el", "normalized"]:
            for kind in ["mean", "median", "p50", "p99"]:
                assert result[f"{kind}_{metric}_ms"] > 0, (metric, kind)
            assert result[f"std_{metric}_ms"] >= 0
        assert json.loads((folder / "bench.json").read_text()) == result
        assert len(result["itls"]) == 8 and result["input_lens"] == [20] * 8
        lengths = folder / "lengths.csv"
        lengths.write_text("prompt_tokens,output_tokens\n5,3\n600,600\n9,4\n")
        table = quire("bench", "serve", "--base-url", server.url, "--num-prompts", 4, "--dataset-name", "sharegpt-lengths",
                      "--dataset-path", lengths, "--request-rate", 50).stdout.decode()
        assert "Successful requests:" in table and "Mean TTFT (ms):" in table
        prompts = folder / "prompts.jsonl"
        prompts.write_text('{"prompt": "Hello", "output_tokens": 3}\n{"prompt": "Bye"}\n')
        result = json.loads(quire("bench", "serve", "--port", server.port, "--num-prompts", 2, "--dataset-name", "custom",
                                  "--dataset-path", prompts, "--random-output-len", 4, "--json").stdout)
        assert result["completed"] == 2
        bad = fails(1, "bench", "serve", "--port", server.port, "--num-prompts", 2, "--random-input-len", 600, "--model", "x",
                    "--random-output-len", 4)
        assert "2 of 2 requests failed" in bad, bad
    assert "quire serve MODEL" in fails(1, "bench", "serve", "--port", server.port)


@test
def bench_offline_reports_vllms_fields():
    need_model()
    result = json.loads(quire("bench", "throughput", MODEL, *SMALL_CACHE, "--num-prompts", 6, "--random-input-len", 12,
                              "--random-output-len", 5, "--json", "--output-json", folder / "t.json").stdout)
    assert result["num_requests"] == 6 and result["total_num_tokens"] == 6 * 17 and result["kv_blocks_in_use"] == 0
    assert result["tokens_per_second"] > result["requests_per_second"] > 0 and result["elapsed_time"] > 0
    assert json.loads((folder / "t.json").read_text()) == result
    result = json.loads(quire("bench", "latency", MODEL, *SMALL_CACHE, "--batch-size", 2, "--input-len", 8, "--output-len", 4,
                              "--num-iters", 3, "--num-iters-warmup", 1, "--json").stdout)
    assert len(result["latencies"]) == 3 and result["avg_latency"] > 0
    assert set(result["percentiles"]) == {"10", "25", "50", "75", "90", "99"}


@test
def bench_sharing_counts_saved_blocks():
    need_model()
    # 2 blocks of prompt for both sequences: 2 of 4 saved in the first step, then 2 of 6 in 16 steps
    run, = json.loads(quire("bench", "sharing", MODEL, *SMALL_CACHE, "--dataset-name", "random", "--num-prompts", 1,
                            "--random-input-len", 32, "--random-output-len", 17, "--n", 2, "--beam-width", "",
                            "--ignore-eos", "--json").stdout)
    assert run["num_steps"] == 17 and run["total_output_tokens"] == 34 and run["method"] == "parallel sampling", run
    assert abs(run["saved_block_fraction"] - (2 / 4 + 16 * 2 / 6) / 17) < 1e-9, run
    done = quire("bench", "sharing", MODEL, *SMALL_CACHE, "--dataset-path", GOLDEN / "sharing" / "instructions.jsonl",
                 "--num-prompts", 2, "--n", "1", "--beam-width", "2,4", "--output-json", folder / "sharing.json",
                 "--log-level", "debug")
    one, two, four = json.loads((folder / "sharing.json").read_text())
    assert one["saved_block_fraction"] == 0 < two["saved_block_fraction"] < four["saved_block_fraction"] < 1
    assert f"{100 * four['saved_block_fraction']:.2f} %" in done.stdout.decode()
    # the log that tools/beam-statistics.py reads
    log = folder / "beams.log"
    log.write_bytes(done.stderr)
    subprocess.run([sys.executable, ROOT / "tools" / "beam-statistics.py", log, folder], check=True, timeout=60)
    statistics = json.loads((folder / "beam_statistics.json").read_text())
    assert set(statistics) == {"2", "4"} and statistics["4"]["num_searches"] == 2
    assert abs(sum(statistics["4"]["children_of_beam"]) - 4) < 0.01
    assert len((folder / "beam_parents.csv").read_text().splitlines()) == 1 + 4
    fails(2, "bench", "sharing", MODEL, *SMALL_CACHE, "--dataset-name", "random", "--n", "two")


@test
def bench_step_says_where_the_time_goes():
    import xml.dom.minidom
    shapes = [("--num-seqs", 4), ("--num-seqs", 0, "--prompt-chunk", 24), ("--num-seqs", 3, "--prompt-chunk", 16)]
    for shape in shapes:
        svg = folder / "step.svg"
        done = quire("bench", "step", TINY, *SMALL_CACHE, *shape, "--context-len", 40, "--num-steps", 6, "--svg", svg,
                     "--output-json", folder / "step.json")
        result = json.loads((folder / "step.json").read_text())
        parts = result["parts_us"]
        assert result["num_tokens"] == result["num_seqs"] + result["prompt_chunk"] > 0 and result["num_steps_used"] == 3
        assert abs(sum(parts.values()) - result["step_us"]) < 0.01 and result["step_us"] > result["bookkeeping_us"] > 0
        # each kind of op is told from the others; a tiny model's prompt has no logits but its last token's
        for part in ("schedule", "batch", "embedding", "norms", "QKV linear", "RoPE, KV write", "attention",
                     "output linear", "MLP linears", "activation", "logits", "sampling", "update", "output"):
            assert parts[part] > 0 and part in done.stdout.decode(), (part, result)
        assert parts["MLP linears"] > parts["output linear"], result
        assert 40 <= result["context_len"] < 110 or shape[1] == 3, result
        texts = " ".join(t.firstChild.data for t in xml.dom.minidom.parse(str(svg)).getElementsByTagName("title"))
        assert "attention block" in texts and "MLP linears" in texts and "A step of llama" in texts, texts
    fails(1, "bench", "step", TINY, *SMALL_CACHE, "--context-len", 510)
    fails(1, "bench", "step", TINY, "--threads", 1, "--num-kv-blocks", 40, "--context-len", 100)
    fails(2, "bench", "step", TINY, "--num-seqs", 0)


@test
def bench_kernels_measures_what_is_asked_for():
    def rows(*args):
        done = quire("bench", "kernels", "--threads", 1, *args, "--output-json", folder / "kernels.json")
        return done.stdout.decode().splitlines(), json.loads((folder / "kernels.json").read_text())

    text, result = rows("--filter", "no such row")
    assert result["rows"] == [] and len(text) == 1 and "GB/s read" in text[0], text
    assert set(result["limits"]) == {"device", "int8_gops", "float32_gflops", "read_gbs"}
    text, result = rows("--filter", "SmolLM2-135M: linear output Q4_1")
    names = [row["name"].removeprefix("SmolLM2-135M: linear output Q4_1 576x576") for row in result["rows"]]
    assert names == [", packing", " M=1", " M=1, weights read", " M=8", " M=32", " M=512"] and len(text) == 7, names
    one, read = result["rows"][1:3]
    assert one["unit"] == "GOP/s" and abs(one["value"] * 1e9 * one["seconds"] - 2 * 576 * 576) < 1, one
    assert read["unit"] == "GB/s" and result["rows"][0]["percent_of_peak"] is None
    if result["limits"]["int8_gops"] > 0:
        assert abs(one["percent_of_peak"] - one["value"] / result["limits"]["int8_gops"] * 100) < 1e-6, one
    _, result = rows("--filter", "SmolLM2-135M: rope_kv_write 1 x", "--isa", "ref")
    assert len(result["rows"]) == 1 and result["rows"][0]["value"] > 0 and "ref" in result["limits"]["device"]
    _, result = rows("--filter", "SmolLM2-135M: attention int8 8 x 1")
    assert [row["unit"] for row in result["rows"]] == ["GFLOP/s", "GB/s"], result
    _, result = rows("--filter", "8 x 1 of 1280, 1024 shared")
    assert len(result["rows"]) == 4 and result["rows"][0]["value"] == 1
    fails(2, "bench", "kernels", "--isa", "mmx")


# ---- the example


@test
def the_example_embeds_the_library():
    need_model()
    example = ROOT / "build" / "examples" / "embed"
    if not example.exists():
        raise Skip("build/examples/embed is not built: make tests")
    done = subprocess.run([example, MODEL], stdout=subprocess.PIPE, timeout=120, check=True)
    text = done.stdout.decode()
    assert "Paris" in text and "24 tokens streamed, 48 generated" in text, text
    assert subprocess.run([example], stderr=subprocess.DEVNULL).returncode == 1


main()
