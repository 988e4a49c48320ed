"""Speculation through the program: the same answers with it, metrics, and wrong configurations."""
import json
import re

from harness import MODEL, Server, main, need_model, quire, test

TEXT = "".join(f"def get_{name}(self):\n    return self.{name}\n\n" for name in ("width", "height", "depth", "colour"))
PROMPTS = [{"prompt": TEXT * 2 + "def get_", "temperature": 0, "max_tokens": 60},
           {"prompt": TEXT, "temperature": 0.7, "seed": 5, "max_tokens": 60, "n": 2, "logprobs": 2},
           {"prompt": "The sea is", "temperature": 1, "seed": 6, "max_tokens": 40, "stop": ["."]},
           {"prompt": TEXT * 2, "temperature": 0.3, "seed": 7, "max_tokens": 60, "repetition_penalty": 1.1}]
NGRAM = {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2}


def answers(*options):
    lines = "\n".join(json.dumps(prompt) for prompt in PROMPTS)
    output = quire("generate", MODEL, "--file", "-", *options, stdin=lines.encode()).stdout
    done = [json.loads(line) for line in output.splitlines()]
    assert len(done) == len(PROMPTS)
    return [answer["choices"] for answer in done]


def metric(server, name, **labels):
    page = server.get("/metrics").body.decode()
    found = re.findall(rf"^vllm:spec_decode_{name}{{([^}}]*)}} (\S+)$", page, re.M)
    assert found, f"no {name} in /metrics"
    return sum(float(value) for text, value in found if all(f'{k}="{v}"' in text for k, v in labels.items()))


@test
def the_same_answers():
    need_model()
    plain = answers()
    for adaptive in (True, False):
        assert answers("--speculative-config", json.dumps({**NGRAM, "adaptive": adaptive})) == plain
    draft = {"model": MODEL, "num_speculative_tokens": 3, "adaptive": False}
    assert answers("--speculative-config", json.dumps(draft)) == plain


@test
def metrics_count_drafts():
    need_model()
    with Server("--num-kv-blocks", "200", "--speculative-config", json.dumps({**NGRAM, "adaptive": False})) as server:
        assert "drafts    5 tokens at a time at most (ngram)" in server.output()
        body = {"prompt": TEXT * 2 + "def get_", "temperature": 0, "max_tokens": 100, "ignore_eos": True}
        reply = server.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        assert json.loads(reply.body)["usage"]["completion_tokens"] == 100
        drafts, tokens = metric(server, "num_drafts_total"), metric(server, "num_draft_tokens_total")
        accepted = metric(server, "num_accepted_tokens_total")
        first, last = (metric(server, "num_accepted_tokens_per_pos_total", position=i) for i in (0, 4))
        print(f"{accepted:.0f} of {tokens:.0f} draft tokens accepted in {drafts:.0f} steps")
        assert 0 < drafts < 100 and drafts <= tokens <= 5 * drafts
        assert tokens >= accepted > 50 and accepted == metric(server, "num_accepted_tokens_per_pos_total")
        assert drafts >= first >= last > 0


@test
def without_speculation_no_metrics():
    need_model()
    with Server("--num-kv-blocks", "20") as server:
        assert "spec_decode" not in server.get("/metrics").body.decode() and "drafts " not in server.output()


@test
def wrong_configurations():
    need_model()
    for config, why in (("{", "not JSON"), ('{"method": "eagle", "num_speculative_tokens": 2}', "ngram"),
                        ('{"method": "ngram", "num_speculative_tokens": 100}', "1 to 32"),
                        ('{"model": "nowhere.gguf", "num_speculative_tokens": 2}', "nowhere.gguf")):
        done = quire("generate", MODEL, "-p", "x", "--speculative-config", config, check=False)
        assert done.returncode == 1 and not done.stdout
        assert b"speculative_config" in done.stderr and why.encode() in done.stderr, done.stderr


main()
