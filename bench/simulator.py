#!/usr/bin/env python3
"""The simulator against the real engine, on this machine: bench/simulator.py MODEL [RUNS]

Two workloads run in turn, RUNS times each (default 5), with schedule logs. What steps cost is learnt from the first one
and tried on the second: its schedule must come out again step by step, and its total time should.

A machine that does other things too makes steps slow now and then, so a step's time is what its thread computed (one
thread, whose turns with other programs do not count). All requests are there from the start, so each run takes the same
steps; of each step the shortest time of all runs counts.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
QUIRE = ROOT / "build" / "quire"
LENGTHS = ROOT / "data" / "traces" / "sharegpt_lengths.csv"
LEARN = ["--num-prompts", "24", "--random-input-len", "300", "--random-output-len", "60", "--random-range-ratio", "0.95",
         "--max-num-seqs", "16", "--max-num-batched-tokens", "256", "--max-model-len", "1024"]
TRY = {
    "ShareGPT lengths": ["--dataset-name", "sharegpt-lengths", "--dataset-path", str(LENGTHS), "--num-prompts", "12",
                         "--max-num-seqs", "8", "--num-kv-blocks", "200", "--max-model-len", "1024"],
    "random lengths": ["--num-prompts", "24", "--random-input-len", "100", "--random-output-len", "60",
                       "--random-range-ratio", "0.8", "--max-num-seqs", "12", "--num-kv-blocks", "120",
                       "--max-model-len", "512"],
}


def run(model, options, log):
    subprocess.run([QUIRE, "bench", "throughput", model, "--threads", "1", *options, "--schedule-log", log], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return [json.loads(line) for line in log.read_text().splitlines()]


def steps(lines):
    return [line["entries"] for line in lines if "step" in line]


def durations(lines):
    return [line["cpu_us"] for line in lines if "computed" in line]


def shortest(runs, path):
    """The first run's log with the shortest time of each step, and no time between steps; runs that took other steps
    (a request came a step later) are left out."""
    first = [dict(line) for line in runs[0]]
    same = [lines for lines in runs if steps(lines) == steps(first)]
    times = [min(step) for step in zip(*map(durations, same))]
    now, at = 0, 0
    with open(path, "w") as out:
        for line in first:
            if "step" in line:
                line["start_us"] = now
                now += times[at]
                at += 1
            elif "computed" in line:
                line["end_us"] = now
            elif "request" in line:
                line["time_us"] = now
            out.write(json.dumps(line) + "\n")
    return len(same)


def replay(log, calibration, *more):
    out = subprocess.run([QUIRE, "simulate", "--model", "smollm2-135m", "--replay", log, *more,
                          *(["--calibration", calibration] if calibration else []), "--json"],
                         check=True, capture_output=True, text=True)
    return json.loads(out.stdout), out.stderr


def main():
    model, num_runs = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        logs = {name: [] for name in ["learn", *TRY]}
        for _ in range(num_runs):
            for name in logs:
                logs[name].append(run(model, TRY.get(name, LEARN), folder / "log.jsonl"))
        calibration = folder / "calibration.json"
        shortest(logs["learn"], folder / "learn.jsonl")
        print(replay(folder / "learn.jsonl", None, "--fit", calibration)[1].strip())
        for name in TRY:
            used = shortest(logs[name], folder / "try.jsonl")
            result, _ = replay(folder / "try.jsonl", calibration)
            real = [sum(durations(lines)) / 1e6 for lines in logs[name]]
            print(f"{name}: {result['num_requests']} requests, {result['num_same_steps']} of {result['num_steps']} steps "
                  f"the same; {result['real_seconds']:.3f} s really ({used} runs, shortest steps; the runs took "
                  f"{min(real):.3f} to {max(real):.3f} s), {result['simulated_seconds']:.3f} s simulated "
                  f"({100 * (result['simulated_seconds'] / result['real_seconds'] - 1):+.1f} %)")


if __name__ == "__main__":
    main()
