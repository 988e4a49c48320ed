#!/usr/bin/env python3
"""The curves of docs/performance.md: does throughput fall as work grows? Two figures and two tables.

    python3 -m pip install matplotlib
    bench/curves.py [--model MODEL] [--clients 1 2 4 ... 256] [--contexts 128 ... 8192] [--out docs/performance]

clients   `quire bench serve` with the lengths of ShareGPT's first turns, three requests a client (at least 24), against a
          server of its own with as many seats as clients
contexts  `quire bench step` with 8 sequences that decode, each with so much context

Beside each: the limit of this machine, were there nothing but the necessary: every step reads the weights once or does
their multiplications in 8 bits, whichever takes longer, and reads the K and V of all contexts. Prompts: their
multiplications. Limits of the processor by `quire bench kernels`, in the same run.
"""
import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from harness import MODEL, QUIRE, Server  # noqa: E402

LENGTHS = ROOT / "data" / "traces" / "sharegpt_lengths.csv"
NUM_SEQS = 8


def quire_json(*args):
    return json.loads(subprocess.run([str(a) for a in (QUIRE, *args, "--json")], stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL, check=True).stdout)


class Limit:
    """Least time of a step, from the model's sizes and the processor's limits."""

    def __init__(self, model):
        about = quire_json("inspect", model)
        data = about["metadata"]
        arch = data["general.architecture"]
        heads, kv_heads = data[f"{arch}.attention.head_count"], data[f"{arch}.attention.head_count_kv"]
        head_size = data[f"{arch}.embedding_length"] // heads
        self.kv_bytes = data[f"{arch}.block_count"] * kv_heads * head_size * 2 * 2  # a token's K and V in float16
        self.parameters, self.weight_bytes = about["parameters"], about["tensor_bytes"]
        limits = quire_json("bench", "kernels", "--filter", "no such row")["limits"]
        self.device, self.ops, self.read = limits["device"], limits["int8_gops"] * 1e9, limits["read_gbs"] * 1e9
        self.text = f"{limits['int8_gops']:.0f} int8 GOP/s, {limits['read_gbs']:.0f} GB/s read"

    def step_seconds(self, num_seqs, context):
        weights = max(self.weight_bytes / self.read, 2 * self.parameters * num_seqs / self.ops)
        return weights + num_seqs * context * self.kv_bytes / self.read

    def output_rate(self, num_seqs, num_in, num_out):
        """Output tokens a second of requests that start with num_in tokens and end num_out later."""
        steps = num_out / num_seqs * self.step_seconds(num_seqs, num_in + num_out / 2)
        return num_out / (steps + 2 * self.parameters * num_in / self.ops)


def measure_clients(args, limit):
    rows = []
    for clients in args.clients:
        num_prompts = max(3 * clients, 24)
        with Server("--max-num-seqs", clients, "--max-model-len", 2048, model=args.model) as server:
            result = quire_json("bench", "serve", "--port", server.port, "--num-prompts", num_prompts, "--ignore-eos",
                                "--dataset-name", "sharegpt-lengths", "--dataset-path", LENGTHS, "--max-concurrency",
                                clients)
        num_in, num_out = (result[key] / num_prompts for key in ("total_input_tokens", "total_output_tokens"))
        rows.append((clients, result["output_throughput"], limit.output_rate(clients, num_in, num_out)))
        print(f"| {clients} | {rows[-1][1]:.0f} | {rows[-1][2]:.0f} | {100 * rows[-1][1] / rows[-1][2]:.0f} % |", flush=True)
    return rows


def measure_contexts(args, limit):
    rows = []
    for context in args.contexts:
        step = quire_json("bench", "step", args.model, "--num-seqs", NUM_SEQS, "--context-len",
                          max(context - 128, context // 2), "--num-steps", 64)
        rate = 1e6 * step["num_tokens"] / step["step_us"]
        rows.append((context, rate, NUM_SEQS / limit.step_seconds(NUM_SEQS, step["context_len"])))
        print(f"| {context} | {rate:.0f} | {rows[-1][2]:.0f} | {100 * rate / rows[-1][2]:.0f} % |", flush=True)
    return rows


def draw(path, rows, xlabel):
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "quire"
    from matplotlib import pyplot
    x, measured, limit = zip(*rows)
    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    axes.plot(x, limit, "--", color="#888888", label="limit of the machine")
    axes.plot(x, measured, "o-", color="#1f6fb4", label="quire")
    axes.set(xscale="log", xticks=x, xticklabels=x, xlabel=xlabel, ylabel="output tokens a second", ylim=(0, None))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--clients", nargs="*", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128, 256])
    parser.add_argument("--contexts", nargs="*", type=int, default=[128, 256, 512, 1024, 2048, 4096, 8192])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs" / "performance")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    limit = Limit(args.model)
    print(f"{limit.device}: {limit.text}\n")
    for measure, x, xlabel in ((measure_clients, "clients", "clients"),
                               (measure_contexts, "contexts", f"tokens of context, {NUM_SEQS} sequences that decode")):
        print(f"| {x} | output tok/s | limit | of the limit |\n|---:|---:|---:|---:|")
        rows = measure(args, limit)
        print()
        if rows:
            draw(args.out / f"{x}.svg", rows, xlabel)


if __name__ == "__main__":
    main()
