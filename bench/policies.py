#!/usr/bin/env python3
"""The table of docs/memory.md: one workload of ShareGPT lengths served under every --kv-allocator.

    bench/policies.py [--model MODEL] [--num-prompts 80] [--request-rate inf] [--slots 4096] [--max-model-len 1024]

For each allocator a server of its own, with a KV cache small enough to matter; its clients are `quire bench serve` with
the same prompts, lengths and arrivals. "running" (requests), and what the slots were used for, are means over all steps
of the server, the last ones, when the queue is empty, included.
"""
import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
from harness import MODEL, QUIRE, Server  # noqa: E402

ALLOCATORS = ["faster-transformer", "orca-max", "orca-pow2", "orca-oracle", "vllm-v0", "vllm"]
USES = ["live", "reserved", "internal_fragmentation", "external_fragmentation", "unused"]
BLOCK_SIZE = 16


def serve(args, allocator):
    options = ["--kv-allocator", allocator, "--num-kv-blocks", args.slots // BLOCK_SIZE, "--block-size", BLOCK_SIZE,
               "--max-model-len", args.max_model_len, "--max-num-seqs", 256]
    with Server(*options, model=args.model) as server:
        command = [QUIRE, "bench", "serve", "--port", server.port, "--num-prompts", args.num_prompts, "--ignore-eos",
                   "--dataset-name", "sharegpt-lengths", "--dataset-path", args.lengths, "--request-rate",
                   args.request_rate, "--json"]
        result = json.loads(subprocess.run([*map(str, command)], stdout=subprocess.PIPE, check=True).stdout)
        metrics = {}
        for line in server.get("/metrics").body.decode().splitlines():
            if line.startswith("#") or " " not in line:
                continue
            name, value = line.rsplit(" ", 1)
            use = re.search(r'use="(\w+)"', name)
            metrics[use.group(1) if use else name.split("{")[0]] = float(value)
    return result, metrics


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--num-prompts", type=int, default=80)
    parser.add_argument("--request-rate", default="inf")
    parser.add_argument("--slots", type=int, default=4096)
    parser.add_argument("--max-model-len", type=int, default=1024)
    parser.add_argument("--lengths", default=ROOT / "data" / "traces" / "sharegpt_lengths.csv")
    args = parser.parse_args()
    print("| | running | requests/s | output tokens/s | normalized latency, ms/token | preemptions | live | reserved "
          "| internal | external | unused |")
    print("|---|" + "---:|" * 10)
    for allocator in ALLOCATORS:
        result, metrics = serve(args, allocator)
        uses = " | ".join(f"{100 * metrics[use]:.1f} %" for use in USES)
        print(f"| {allocator} | {metrics['quire:mean_requests_running']:.2f} | {result['request_throughput']:.2f} "
              f"| {result['output_throughput']:.1f} | {result['mean_normalized_ms']:.0f} "
              f"| {metrics['vllm:num_preemptions_total']:.0f} | {uses} |", flush=True)


if __name__ == "__main__":
    main()
