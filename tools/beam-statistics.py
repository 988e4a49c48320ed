#!/usr/bin/env python3
"""How beams evolve, from the log of a run: data/beam_parents.csv and data/beam_statistics.json (data/README.md).

    quire bench sharing MODEL --dataset-path F --n "" --beam-width 2,4,6 --log-level debug 2> log
    tools/beam-statistics.py log data

The engine logs a line for every step of a beam search but the first (all its beams continue the prompt) and the last:
which beam of the step before each beam continues, best first.
"""
import collections
import json
import pathlib
import re
import statistics
import sys

LINE = re.compile(rb"DEBUG beam search (\d+): parents((?: \d+)+)")


def searches(log):
    """(width, steps) of each search; the runs of the log follow each other, and each counts its searches from 1."""
    found, last_width, run = collections.OrderedDict(), 0, 0
    for line in log.splitlines():
        match = LINE.search(line)
        if not match:
            continue
        parents = tuple(map(int, match[2].split()))
        if len(parents) != last_width:
            last_width, run = len(parents), run + 1
        found.setdefault((run, int(match[1])), []).append(parents)
    return [(len(steps[0]), steps) for _, steps in sorted(found.items())]


def depths(width, steps):
    """After each step: tokens since the last common ancestor of two beams, for all pairs; at first the prompt's end."""
    common = [[0] * width for _ in range(width)]  # tokens that two beams have in common
    for num_tokens, parents in enumerate(steps, 1):
        common = [[num_tokens if p == q else common[p][q] for q in parents] for p in parents]
        yield [num_tokens + 1 - common[i][j] for i in range(width) for j in range(i)]


def summary(width, runs):
    distinct = [0] * width
    children = [0] * width
    pairs, widest = [], []
    for steps in runs:
        for parents in steps:
            distinct[len(set(parents)) - 1] += 1
            for parent in parents:
                children[parent] += 1
        for depth in depths(width, steps):
            pairs += depth
            widest.append(max(depth))
    num_steps = sum(distinct)

    def percentiles(values):
        cuts = statistics.quantiles(values, n=100, method="inclusive")
        return {"mean": round(statistics.fmean(values), 2), **{str(p): round(cuts[p - 1], 1) for p in (10, 25, 50, 75, 90, 99)}}

    return {"num_searches": len(runs), "num_steps": num_steps,
            "distinct_parents": [round(n / num_steps, 4) for n in distinct],
            "children_of_beam": [round(n / num_steps, 3) for n in children],
            "pair_depth": percentiles(pairs), "group_depth": percentiles(widest)}


def main():
    log, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    found = searches(log.read_bytes())
    with open(folder / "beam_parents.csv", "w") as out:
        out.write("width,parents\n")
        for width, steps in found:
            out.write(f"{width},{' '.join(''.join(map(str, parents)) for parents in steps)}\n")
    widths = sorted({width for width, _ in found})
    result = {str(width): summary(width, [steps for w, steps in found if w == width]) for width in widths}
    (folder / "beam_statistics.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
