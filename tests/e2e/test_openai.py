"""The `openai` package, sync, async and streaming, against the running server."""
import asyncio
import json
import pathlib
import tempfile

from harness import MODEL, Server, Skip, main, need_model, quire, test

try:
    import openai
except ImportError:
    openai = None

CHAT = [{"role": "user", "content": "Name three colours."}]
KEY = "sesame"
_server = None
folder = pathlib.Path(tempfile.mkdtemp(prefix="quire-test-openai-"))


def client(**options):
    """A client of one server shared by all tests here; it ends with the program."""
    global _server
    need_model()
    if openai is None:
        raise Skip("no openai package: make venv")
    if _server is None:
        _server = Server("--api-key", KEY, "--served-model-name", "smol", "--max-model-len", "1024",
                         "--num-kv-blocks", "400").__enter__()
    kind = options.pop("kind", openai.OpenAI)
    return kind(base_url=_server.url + "/v1", api_key=options.pop("api_key", KEY), max_retries=0, timeout=300, **options)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


@test
def models():
    listed = client().models.list().data
    assert [m.id for m in listed] == ["smol"] and listed[0].max_model_len == 1024
    assert client().models.retrieve("smol").object == "model"
    assert raises(openai.NotFoundError, lambda: client().models.retrieve("other")).param == "model"


@test
def chat():
    answer = client().chat.completions.create(model="smol", messages=CHAT, max_completion_tokens=12, temperature=0,
                                              logprobs=True, top_logprobs=3, n=2)
    assert answer.object == "chat.completion" and answer.id.startswith("chatcmpl-") and len(answer.choices) == 2
    first, second = answer.choices
    assert first.message.role == "assistant" and first.message.content
    assert first.message.content == second.message.content, "greedy choices differ"
    assert first.finish_reason in ("length", "stop")
    assert len(first.logprobs.content) == answer.usage.completion_tokens / 2
    assert all(len(t.top_logprobs) == 3 and t.top_logprobs[0].logprob >= t.logprob for t in first.logprobs.content)
    text = b"".join(bytes(t.bytes) for t in first.logprobs.content)
    assert text.decode(errors="replace").startswith(first.message.content)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@test
def chat_streamed_equals_whole():
    def ask(**more):
        return client().chat.completions.create(model="smol", messages=CHAT, max_tokens=16, seed=7, temperature=0.8,
                                                **more)

    whole = ask()
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    finished = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert finished == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert len({c.id for c in chunks}) == 1


@test
def completions():
    create = client().completions.create
    answer = create(model="smol", prompt=["The sky is", "One, two,"], max_tokens=6, temperature=0, n=2)
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert answer.choices[0].text == answer.choices[1].text != answer.choices[2].text
    alone = create(model="smol", prompt="One, two,", max_tokens=6, temperature=0)
    assert alone.choices[0].text == answer.choices[2].text
    ids = create(model="smol", prompt="The sky is", max_tokens=1, extra_body={"return_token_ids": True})
    again = create(model="smol", prompt=ids.choices[0].prompt_token_ids, max_tokens=6, temperature=0)
    assert again.choices[0].text == answer.choices[0].text
    many = create(model="smol", prompt=[ids.choices[0].prompt_token_ids] * 2, max_tokens=6, temperature=0)
    assert [c.text for c in many.choices] == [answer.choices[0].text] * 2
    streamed = create(model="smol", prompt=["The sky is", "One, two,"], max_tokens=6, temperature=0, stream=True)
    texts = ["", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [answer.choices[0].text, answer.choices[2].text]


@test
def echo_and_logprobs():
    answer = client().completions.create(model="smol", prompt="The sky is blue", max_tokens=0, echo=True, logprobs=2)
    choice = answer.choices[0]
    assert choice.text == "The sky is blue" and "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.token_logprobs[0] is None and all(p <= 0 for p in choice.logprobs.token_logprobs[1:])
    assert [choice.text[o:o + 4] for o in choice.logprobs.text_offset][1] == " sky"
    longer = client().completions.create(model="smol", prompt="The sky is", max_tokens=3, echo=True, logprobs=2,
                                         temperature=0)
    assert longer.choices[0].logprobs.token_logprobs[1] == choice.logprobs.token_logprobs[1]


@test
def stop_strings():
    create = client().completions.create
    text = create(model="smol", prompt="One, two, three,", max_tokens=16, temperature=0).choices[0].text
    word = text.split()[2]
    cut = create(model="smol", prompt="One, two, three,", max_tokens=16, temperature=0, stop=[word]).choices[0]
    assert cut.text == text[:text.index(word)] and cut.finish_reason == "stop" and cut.stop_reason == word
    kept = create(model="smol", prompt="One, two, three,", max_tokens=16, temperature=0, stop=word,
                  extra_body={"include_stop_str_in_output": True}).choices[0]
    assert kept.text == cut.text + word


@test
def beams_and_best_of():
    def beam(**more):
        return client().completions.create(model="smol", prompt="The capital of France is", max_tokens=8, n=2,
                                           extra_body={"use_beam_search": True, "best_of": 4}, **more)

    whole = beam()
    scores = [c.beam_score for c in whole.choices]
    assert scores == sorted(scores, reverse=True) and whole.choices[0].text != whole.choices[1].text
    assert all(abs(c.cumulative_logprob / 8 - c.beam_score) < 1e-3 for c in whole.choices if c.finish_reason == "length")
    streamed = {}
    for chunk in beam(stream=True):
        for c in chunk.choices:
            streamed[c.index] = streamed.get(c.index, "") + c.text
    assert streamed == {c.index: c.text for c in whole.choices}
    one = client().completions.create(model="smol", prompt="Once", max_tokens=8, best_of=3, n=1, seed=1)
    assert len(one.choices) == 1 and one.choices[0].cumulative_logprob < 0
    error = raises(openai.BadRequestError, lambda: beam(logprobs=2))
    assert error.param == "logprobs"


@test
def beams_on_every_way_in():
    """Chat, completions (whole and streamed) and the command line give the same beams, however the search may end."""
    scores = {}
    for early in (True, False, "never"):
        body = {"use_beam_search": True, "best_of": 4, "early_stopping": early, "length_penalty": 0.8}

        def ask(**more):
            return client().chat.completions.create(model="smol", messages=CHAT, max_tokens=40, n=2, extra_body=body, **more)

        whole, pieces, ends = ask(), {}, {}
        for chunk in ask(stream=True):
            for c in chunk.choices:
                pieces.setdefault(c.index, []).extend([c.delta.content] if c.delta.content else [])
                ends[c.index] = c.finish_reason or ends.get(c.index)
        assert pieces == {c.index: [c.message.content] for c in whole.choices}, "a beam comes in one piece"
        assert ends == {c.index: c.finish_reason for c in whole.choices}
        scores[early] = [c.beam_score for c in whole.choices]
        assert scores[early] == sorted(scores[early], reverse=True) and whole.choices[0].cumulative_logprob < 0

        rendered = folder / "chat.json"
        rendered.write_text(json.dumps(CHAT))
        prompt = quire("render", MODEL, "--messages", rendered).stdout.decode()
        text = client().completions.create(model="smol", prompt=prompt, max_tokens=40, n=2,
                                           extra_body={**body, "add_special_tokens": False})
        done = quire("generate", MODEL, "--num-kv-blocks", 400, "-p", prompt, "--max-tokens", 40, "-n", 2,
                     "--beam-width", 4, "--early-stopping", str(early).lower(), "--length-penalty", 0.8, "--json")
        line = json.loads(done.stdout)
        for c, t, l in zip(whole.choices, text.choices, line["choices"]):
            assert c.message.content == t.text == l["text"]
            assert c.cumulative_logprob == t.cumulative_logprob == l["cumulative_logprob"]
            assert c.beam_score == t.beam_score == l["beam_score"] and c.finish_reason == l["finish_reason"]
    assert scores[True][0] <= scores[False][0] <= scores["never"][0], "who searches longer finds no worse"
    error = raises(openai.BadRequestError, lambda: client().completions.create(
        model="smol", prompt="a", extra_body={"use_beam_search": True, "early_stopping": "soon"}))
    assert error.param == "early_stopping"


@test
def errors():
    ask = client().completions.create
    error = raises(openai.BadRequestError, lambda: ask(model="smol", prompt="a", temperature=-1))
    assert error.param == "temperature" and error.status_code == 400
    assert raises(openai.BadRequestError, lambda: ask(model="smol", prompt="a " * 2000)).param == "prompt"
    assert raises(openai.NotFoundError, lambda: ask(model="gpt-4", prompt="a")).param == "model"
    raises(openai.AuthenticationError, lambda: client(api_key="wrong").models.list())
    raises(openai.BadRequestError, lambda: client().chat.completions.create(
        model="smol", messages=CHAT, response_format={"type": "json_object"}))
    raises(openai.NotFoundError, lambda: client().embeddings.create(model="smol", input="a"))


@test
def sixty_four_chats_at_once():
    async def one(api, i):
        text, last = "", None
        async for chunk in await api.chat.completions.create(
                model="smol", messages=[{"role": "user", "content": f"Count to {i}."}], max_tokens=8, temperature=0,
                stream=True):
            text += chunk.choices[0].delta.content or ""
            last = chunk.choices[0].finish_reason
        assert last in ("length", "stop")
        return text

    async def everyone():
        async with client(kind=openai.AsyncOpenAI) as api:
            return await asyncio.gather(*(one(api, i) for i in range(64)))

    texts = asyncio.run(everyone())
    alone = client().chat.completions.create(model="smol", messages=[{"role": "user", "content": "Count to 40."}],
                                             max_tokens=8, temperature=0)
    assert texts[40] == alone.choices[0].message.content, "alone and under load differ"


@test
def the_server_ends_well():
    if _server is None:
        raise Skip("it was never started")
    _server.__exit__(None, None, None)


main()
