#!/usr/bin/env python3
"""Tokens per second with and without speculation, on text that is copied and on chat.

    .venv/bin/python bench/speculation.py MODEL [DRAFT_MODEL]       MODEL is its own draft when none is given

Time is that of the processor with one thread, without loading and prompts: what a free machine would take, on a busy one
too. The configurations take turns; of each the best of several runs counts. The answers must be the same.
"""
import argparse
import json
import os
import pathlib
import resource
import subprocess

QUIRE = os.environ.get("QUIRE_BIN", str(pathlib.Path(__file__).resolve().parent.parent / "build" / "quire"))
CODE = "".join(f"def mean_{name}(values):\n    total = 0.0\n    for value in values:\n        total = total + value.{name}\n"
               f"    return total / len(values)\n\n" for name in ("width", "height", "depth"))
COPY = [
    "Rename the variable total to sum in this code and print the whole code:\n\n" + CODE,
    "Correct the one spelling mistake in this text and repeat the rest exactly.\n\nThe quire is a stack of pages. The "
    "key-value cache of every sequence is cut into fixed-size blocks, a block table maps each sequence's logical blocks "
    "onto physical ones, and one sheduler fills every step of the model with as many tokens as memory and the step's "
    "budget allow. One program in C, no Python at run time.",
    "Repeat this list and add one item at the end:\n\n1. Boil two litres of water with a spoon of salt.\n2. Add the pasta "
    "and stir once.\n3. Chop the garlic and fry it in olive oil.\n4. Add the tomatoes and let them simmer.\n5. Drain the "
    "pasta and mix it with the sauce.",
    "Summarize in two sentences, using the words of the text:\n\nThe river rises in the hills north of the town and flows "
    "south for ninety kilometres before it reaches the sea. In spring, when the snow melts, the river floods the meadows "
    "on both banks, and farmers move their cattle to higher ground. A dam was planned in the nineteen sixties, but the "
    "plan was given up after protests by fishermen and farmers.",
]
CHAT = ["Give three tips for sleeping better during a heat wave.", "Explain what a hash table is to a ten-year-old.",
        "Write a short poem about the first snow of the year.", "What is the difference between weather and climate?"]


def run(args, config, prompts, streams, temperature, max_tokens):
    lines = [{"prompt": f"<|im_start|>user\n{prompts[i % 4]}<|im_end|>\n<|im_start|>assistant\n", "seed": i,
              "max_tokens": max_tokens, "temperature": temperature} for i in range(args.requests * streams)]
    command = [QUIRE, "generate", args.model, "--file", "-", "--threads", "1", "--max-num-seqs", str(streams),
               "--num-kv-blocks", "1000", "--no-enable-prefix-caching"]
    if config:
        command += ["--speculative-config", json.dumps(config)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, input="\n".join(map(json.dumps, lines)).encode(), stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    tokens = sum(answer["usage"]["completion_tokens"] for answer in answers)
    return after.ru_utime - before.ru_utime, tokens, [answer["choices"] for answer in answers]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("draft", nargs="?")
    parser.add_argument("--requests", type=int, default=4, help="for each stream")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    ngram = {"method": "ngram", "num_speculative_tokens": 6, "prompt_lookup_max": 4, "prompt_lookup_min": 2}
    draft = {"model": args.draft or args.model, "num_speculative_tokens": 4}
    configs = {"off": None, "ngram": ngram, "draft": draft}
    print(f"{'task':5} {'streams':>7} {'temperature':>11}  " + "  ".join(f"{name:>16}" for name in configs))
    for task, prompts in (("copy", COPY), ("chat", CHAT)):
        for streams in (1, 8):
            for temperature in (0, 0.7):
                rates, same = {}, []
                for _ in range(args.runs):
                    for name, config in configs.items():
                        short, few, _ = run(args, config, prompts, streams, temperature, 1)
                        seconds, tokens, answers = run(args, config, prompts, streams, temperature, 160)
                        same.append(answers)
                        rates[name] = max(rates.get(name, 0), (tokens - few) / max(seconds - short, 1e-9))
                assert all(answers == same[0] for answers in same), "speculation changed an answer"
                print(f"{task:5} {streams:7} {temperature:11}  " +
                      "  ".join(f"{rate:6.0f}/s x {rate / rates['off']:5.2f}" for rate in rates.values()), flush=True)


if __name__ == "__main__":
    main()
