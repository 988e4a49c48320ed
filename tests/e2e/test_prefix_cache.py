"""A stored prefix cache: a chat goes on after a restart or a kill from what was computed before, with the same words."""
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import tempfile
import time

from harness import MODEL, ROOT, Server, main, need_model, quire, test

PAGE = (ROOT / "docs" / "STRUCTURE.md").read_text()


class Killed(Server):
    """Ends by kill -9 in whatever it is doing."""

    def __exit__(self, kind, value, trace):
        self.process.kill()
        assert self.process.wait() == -signal.SIGKILL


def chat(server, turns, max_tokens=24):
    """The answer's text, tokens of the prompt, and how many of them were cached."""
    body = {"model": "any", "messages": turns, "max_tokens": max_tokens, "temperature": 0}
    body["model"] = json.loads(server.get("/v1/models").body)["data"][0]["id"]
    response = server.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    assert response.status == 200, response.body
    answer = json.loads(response.body)
    usage = answer["usage"]
    return (answer["choices"][0]["message"]["content"], usage["prompt_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"])


def conversation(topic, length=2600):
    return [{"role": "system", "content": f"You explain {topic}. " + PAGE[:length]},
            {"role": "user", "content": f"What is said about {topic}?"}]


def metric(server, name):
    return float(re.search(rf"^{re.escape(name)}{{[^}}]*}} (\S+)", server.get("/metrics").body.decode(), re.M).group(1))


class Folder:
    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="quire-prefix-")
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path)


@test
def goes_on_after_a_restart():
    need_model()
    with Folder() as folder:
        turns = conversation("paging")
        with Server("--prefix-cache-path", folder) as server:
            first, num_prompt, cached = chat(server, turns)
            assert cached == 0 and num_prompt > 600, (cached, num_prompt)
            second_turns = turns + [{"role": "assistant", "content": first}, {"role": "user", "content": "And then?"}]
            second, _, cached = chat(server, second_turns)
            assert cached > 600, cached
        with Server("--prefix-cache-path", folder) as server:
            assert re.search(r"prefixes +[1-9]\d* blocks stored", server.output()), server.output()
            text, num_prompt, cached = chat(server, second_turns)
            assert text == second and cached >= num_prompt - 40, (cached, num_prompt)
            assert metric(server, "vllm:external_prefix_cache_hits_total") == cached
            assert metric(server, "vllm:external_prefix_cache_queries_total") == num_prompt
            assert metric(server, "vllm:prefix_cache_hits_total") == 0
            text, _, cached = chat(server, turns)  # in memory now
            assert text == first and cached > 600
            assert server.request("POST", "/reset_prefix_cache").status == 200
            text, _, cached = chat(server, turns)
            assert text == first and cached == 0, cached
            assert metric(server, "quire:num_prefix_store_blocks") == 0


@test
def goes_on_after_a_kill():
    need_model()
    with Folder() as folder:
        options = ("--prefix-cache-path", folder, "--num-kv-blocks", "80", "--max-model-len", "1200")
        topics = ["paging", "layout", "threads"]
        with Killed(*options) as server:  # room for one conversation in memory: the others are evicted
            first = [chat(server, conversation(topic)) for topic in topics]
            assert all(cached == 0 for _, _, cached in first), first
            again = chat(server, conversation(topics[0]))  # found in the file while it runs
            assert again[0] == first[0][0] and again[2] > 600, again
        stored = 0
        for _ in range(2):
            with Killed(*options) as server:
                for topic, (text, _, _) in zip(topics, first):
                    now = chat(server, conversation(topic))
                    assert now[0] == text, topic
                    stored += now[2]
        assert stored > 1000, stored


@test
def a_damaged_file_changes_nothing():
    need_model()
    with Folder() as folder:
        turns = conversation("paging")
        with Server("--prefix-cache-path", folder) as server:
            text, _, _ = chat(server, turns)
        [path] = pathlib.Path(folder).iterdir()
        whole = path.read_bytes()
        for damaged in (whole[: len(whole) // 2], whole[: 1 << 19] + bytes(len(whole) - (1 << 19)), b"x" + whole[1:]):
            path.write_bytes(damaged)
            with Server("--prefix-cache-path", folder) as server:
                assert chat(server, turns)[0] == text


def seconds_to_first_token(server, turns):
    body = json.dumps({"model": json.loads(server.get("/v1/models").body)["data"][0]["id"], "messages": turns,
                       "max_tokens": 8, "temperature": 0, "stream": True})
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
    start = time.monotonic()
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    response, text = connection.getresponse(), b""
    while not re.search(rb'"content": ?"[^"]', text):
        text += response.read1()
    taken = time.monotonic() - start
    response.read()
    connection.close()
    return taken


@test
def time_to_first_token_after_a_restart():  # printed, not judged
    need_model()
    times = {"with": [], "without": []}
    with Folder() as folder:
        turns = conversation("paging", 6200)
        with Server("--prefix-cache-path", folder) as server:
            text, num_prompt, _ = chat(server, turns)
        turns += [{"role": "assistant", "content": text}, {"role": "user", "content": "And then?"}]
        for _ in range(3):
            with Server() as server:
                times["without"].append(seconds_to_first_token(server, turns))
            with Server("--prefix-cache-path", folder) as server:
                times["with"].append(seconds_to_first_token(server, turns))
                assert metric(server, "vllm:external_prefix_cache_hits_total") >= num_prompt - 16
    for how, taken in times.items():
        print(f"  {how} a stored prefix: first token of a chat of {num_prompt} tokens after",
              ", ".join(f"{t:.3f}" for t in taken), "s")


@test
def what_does_not_work_is_said_at_start():
    need_model()
    with Folder() as folder:
        with Server("--prefix-cache-path", folder):
            done = quire("generate", MODEL, "-p", "a", "--prefix-cache-path", folder, check=False)
            assert done.returncode == 1 and b"another engine" in done.stderr, done.stderr
        for arguments, word in ((("--prefix-cache-path", folder + "/none"), b"No such file"),
                                (("--prefix-cache-path", folder, "--prefix-cache-space", "1000000"), b"GiB free"),
                                (("--prefix-cache-path", folder, "--prefix-cache-space", "0.00001"), b"one KV block"),
                                (("--prefix-cache-path", folder, "--no-enable-prefix-caching"), b"caching is off")):
            done = quire("generate", MODEL, "-p", "a", *arguments, check=False)
            assert done.returncode == 1 and word in done.stderr, done.stderr
        assert len(os.listdir(folder)) == 1


if __name__ == "__main__":
    main()
