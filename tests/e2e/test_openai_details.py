"""What test_openai.py leaves out: the async client, seeds, sampling options, logprobs while streaming, clients that go
away, the routes beside the OpenAI ones."""
import asyncio
import json
import time

from harness import Server, Skip, main, need_model, test

try:
    import openai
except ImportError:
    openai = None

CHAT = [{"role": "system", "content": "You are terse."}, {"role": "user", "content": "Name three colours."}]
_server = None


def server():
    global _server
    need_model()
    if openai is None:
        raise Skip("no openai package: make venv")
    if _server is None:
        _server = Server("--served-model-name", "smol", "--max-model-len", "1024", "--num-kv-blocks", "400").__enter__()
    return _server


def client(kind=None):
    return (kind or openai.OpenAI)(base_url=server().url + "/v1", api_key="none", max_retries=0, timeout=300)


def post(path, **body):
    return server().request("POST", path, json.dumps(body), {"Content-Type": "application/json"})


def metrics():
    """Sums over the labels of each metric."""
    values = {}
    for line in server().get("/metrics").body.decode().splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name = name.split("{")[0]
            values[name] = values.get(name, 0) + float(value)
    return values


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time given"
        time.sleep(0.05)


def idle():
    now = metrics()
    return now["vllm:num_requests_running"] == 0 and now["vllm:num_requests_waiting"] == 0


@test
def async_client():
    async def ask():
        async with client(openai.AsyncOpenAI) as api:
            listed = await api.models.list()
            chat = await api.chat.completions.create(model="smol", messages=CHAT, max_tokens=8, temperature=0)
            text = await api.completions.create(model="smol", prompt="The sky is", max_tokens=4, temperature=0)
            try:
                await api.completions.create(model="smol", prompt="a", top_p=2)
                raise AssertionError("top_p=2 was accepted")
            except openai.BadRequestError as error:
                assert error.param == "top_p"
            return listed.data[0].id, chat.choices[0].message.content, text.choices[0].text

    model, chat, text = asyncio.run(ask())
    assert model == "smol" and chat and text
    assert chat == client().chat.completions.create(model="smol", messages=CHAT, max_tokens=8,
                                                    temperature=0).choices[0].message.content


@test
def seeds():
    def ask(seed, n=1):
        answer = client().completions.create(model="smol", prompt="Once upon a time", max_tokens=12, temperature=1.2,
                                             seed=seed, n=n)
        return [c.text for c in answer.choices]

    assert ask(1) == ask(1) and ask(1) != ask(2)
    three = ask(5, n=3)
    assert len(set(three)) == 3, "choices of one request should differ"
    assert three == ask(5, n=3)


@test
def sampling_options():
    def ask(**more):
        extra = {k: more.pop(k) for k in list(more) if k in ("top_k", "min_p", "repetition_penalty", "ignore_eos",
                                                            "min_tokens", "stop_token_ids", "no_such_field")}
        return client().completions.create(model="smol", prompt="One, two, three,", max_tokens=8, extra_body=extra,
                                           **more).choices[0]

    greedy = ask(temperature=0)
    assert ask(temperature=1, top_k=1, seed=3).text == greedy.text
    assert ask(temperature=1, top_p=0.0001, seed=3).text == greedy.text
    assert ask(temperature=1, min_p=1.0, seed=3).text == greedy.text
    assert ask(temperature=0, no_such_field={"a": 1}).text == greedy.text
    first = json.loads(post("/tokenize", model="smol", prompt=greedy.text, add_special_tokens=False).body)["tokens"][0]
    assert ask(temperature=0, logit_bias={str(first): -100}).text != greedy.text
    forced = ask(temperature=0, logit_bias={str(first): 100})
    assert forced.text == json.loads(post("/detokenize", model="smol", tokens=[first] * 8).body)["prompt"]
    stopped = ask(temperature=0, stop_token_ids=[first])
    assert stopped.finish_reason == "stop" and stopped.stop_reason == first
    assert ask(temperature=0, ignore_eos=True, min_tokens=8).finish_reason == "length"


@test
def streamed_logprobs_and_choices():
    def ask(**more):
        return client().chat.completions.create(model="smol", messages=CHAT, max_tokens=8, temperature=0.9, seed=11, n=2,
                                                logprobs=True, top_logprobs=2, **more)

    whole = ask()
    texts, tokens = ["", ""], [[], []]
    for chunk in ask(stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.logprobs and choice.logprobs.content:
                tokens[choice.index] += [(t.token, t.logprob, len(t.top_logprobs)) for t in choice.logprobs.content]
    assert texts == [c.message.content for c in whole.choices]
    assert tokens == [[(t.token, t.logprob, len(t.top_logprobs)) for t in c.logprobs.content] for c in whole.choices]


@test
def stop_while_streaming():
    def ask(**more):
        return client().completions.create(model="smol", prompt="One, two, three,", max_tokens=16, temperature=0, **more)

    text = ask().choices[0].text
    word = text.split()[2]
    chunks = list(ask(stop=[word, "never"], stream=True))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == text[:text.index(word)]
    assert chunks[-1].choices[0].finish_reason == "stop"
    crossing = text[text.index(word) - 2:text.index(word) + 2]  # begins in one token and ends in another
    assert ask(stop=crossing).choices[0].text == text[:text.index(crossing)]


@test
def conversations_through_the_template():
    ask = client().chat.completions.create
    parts = [{"role": "user", "content": [{"type": "text", "text": "Name three "}, {"type": "text", "text": "colours."}]}]
    joined = ask(model="smol", messages=parts, max_tokens=6, temperature=0)
    assert joined.choices[0].message.content
    for messages in ([], [{"content": "no role"}], "text", [{"role": "user", "content": 5}]):
        answer = post("/v1/chat/completions", model="smol", messages=messages, max_tokens=1)
        assert answer.status == 400, (messages, answer.status, answer.body)
        error = json.loads(answer.body)["error"]
        assert error["message"] and error["type"], error
    answer = post("/v1/chat/completions", model="smol", messages=CHAT, max_tokens=1,
                  chat_template="{{ raise_exception('not today') }}")
    assert answer.status == 400 and b"line 1: not today" in answer.body, answer.body


@test
def bad_bodies():
    for body in (b"", b"{", b"[]", b"null", b'{"model": "smol"}', b'{"model": "smol", "prompt": {}}', b"\xff\xfe",
                 b'{"model": "smol", "prompt": "a", "n": 0}', b'{"model": "smol", "prompt": "a", "stop": [1]}',
                 b'{"model": "smol", "prompt": [1, 99999999]}', b'{"model": "smol", "prompt": "a", "max_tokens": -5}'):
        answer = server().request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        assert answer.status == 400, (body, answer.status, answer.body)
        assert json.loads(answer.body)["error"]["message"], body
    assert server().request("POST", "/v1/models", b"{}").status == 405
    assert server().get("/nothing/here").status == 404


@test
def tokenize_and_detokenize():
    text = "Hello, Wörld! 日本語 😀\n"
    tokens = json.loads(post("/tokenize", model="smol", prompt=text).body)
    assert tokens["count"] == len(tokens["tokens"]) > 0 and tokens["max_model_len"] == 1024
    back = json.loads(post("/detokenize", model="smol", tokens=tokens["tokens"]).body)
    assert back["prompt"] == text
    chat = json.loads(post("/tokenize", model="smol", messages=CHAT).body)
    prompt = json.loads(post("/detokenize", model="smol", tokens=chat["tokens"]).body)["prompt"]
    usage = client().chat.completions.create(model="smol", messages=CHAT, max_tokens=1).usage
    assert usage.prompt_tokens == chat["count"]
    assert "Name three colours." in prompt
    assert post("/detokenize", model="smol", tokens=[-1]).status == 400
    assert post("/tokenize", model="smol").status == 400


@test
def health_version_metrics():
    assert server().get("/health").status == 200
    assert json.loads(server().get("/version").body)["version"]
    before = metrics()
    client().completions.create(model="smol", prompt="a b c d", max_tokens=5, temperature=0, extra_body={"ignore_eos": True})
    wait_until(idle)
    after = metrics()
    assert after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"] == 5
    assert after["vllm:prompt_tokens_total"] > before["vllm:prompt_tokens_total"]
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc", "num_preemptions_total",
                 "prefix_cache_queries_total", "prefix_cache_hits_total", "time_to_first_token_seconds_count",
                 "e2e_request_latency_seconds_count", "request_queue_time_seconds_count"):
        assert f"vllm:{name}" in after, name
    assert after["vllm:kv_cache_usage_perc"] == 0
    assert after["quire:mean_requests_running"] > 0


@test
def clients_that_go_away_free_their_blocks():
    for _ in range(3):
        streams = [client().completions.create(model="smol", prompt=f"Story {i}: once upon a time", max_tokens=900,
                                               stream=True, extra_body={"ignore_eos": True}) for i in range(6)]
        for stream in streams:
            next(iter(stream))
        assert metrics()["vllm:num_requests_running"] > 0
        for stream in streams:
            stream.close()
        wait_until(idle, 30)
    assert metrics()["vllm:kv_cache_usage_perc"] == 0
    assert client().completions.create(model="smol", prompt="still", max_tokens=2).choices[0].text


@test
def the_server_ends_well():
    if _server is None:
        raise Skip("it was never started")
    _server.__exit__(None, None, None)


main()
