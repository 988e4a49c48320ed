"""256 clients stream at once, a third of them hang up midway, all the time: no error, no leak, nothing left behind.

    tests/e2e/test_soak.py [--seconds 20] [--clients 256]

Plain sockets under asyncio, so that a client can leave at any byte. The pool is small, so requests are also preempted.
"""
import argparse
import asyncio
import json
import random
import re
import time

from harness import Server, main, need_model, test

parser = argparse.ArgumentParser()
parser.add_argument("--seconds", type=float, default=20)
parser.add_argument("--clients", type=int, default=256)
options = parser.parse_args()

NUM_BLOCKS = 300
WORDS = "the a sky sea small old river code number between light house garden answer question because and of".split()


class Counts:
    def __init__(self):
        self.whole = self.left = self.tokens = 0
        self.errors = []


def body(rng):
    text = " ".join(rng.choices(WORDS, k=rng.randrange(1, 60)))
    request = {"max_tokens": rng.randrange(2, 16), "temperature": rng.choice([0, 1]), "stream": True,
               "seed": rng.randrange(1000), "ignore_eos": True}
    if rng.random() < 0.5:
        return "/v1/completions", {**request, "prompt": text}, 1
    n = rng.choice([1, 1, 2])
    return "/v1/chat/completions", {**request, "messages": [{"role": "user", "content": text}], "n": n}, n


async def events(reader):
    """The server-sent events of a chunked answer."""
    status = (await reader.readline()).split()[1:2]
    chunked = False
    while (line := await reader.readline()) not in (b"\r\n", b""):
        chunked |= line.lower().startswith(b"transfer-encoding: chunked")
    if status != [b"200"] or not chunked:
        raise AssertionError(f"status {status}, chunked {chunked}: {await reader.read(500)}")
    data = b""
    while (size := int(await reader.readline(), 16)) > 0:
        data += (await reader.readexactly(size + 2))[:-2]
        while b"\n\n" in data:
            event, data = data.split(b"\n\n", 1)
            assert event.startswith(b"data: "), event
            yield event[6:]
    await reader.readline()


async def exchange(reader, writer, rng, counts):
    """One request; False when this client left in the middle of it."""
    path, request, n = body(rng)
    text = json.dumps(request).encode()
    leave_after = rng.randrange(0, 12) if rng.random() < 1 / 3 else None
    writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text)
    if leave_after == 0:
        await asyncio.sleep(rng.random() * 0.2)
        return False
    num_events, finished, done = 0, 0, False
    async for event in events(reader):
        assert not done, "an event after [DONE]"
        if event == b"[DONE]":
            done = True
            continue
        chunk = json.loads(event)
        assert "error" not in chunk, chunk
        finished += chunk["choices"][0]["finish_reason"] is not None
        num_events += 1
        if num_events == leave_after:
            return False
    assert done and finished == n, f"{finished} of {n} finished, done {done}"
    counts.tokens += num_events
    return True


async def client(port, seed, deadline, counts):
    rng = random.Random(seed)
    connection = None
    while time.monotonic() < deadline:
        try:
            connection = connection or await asyncio.open_connection("127.0.0.1", port)
            stayed = await asyncio.wait_for(exchange(*connection, rng, counts), 300)
        except Exception as error:  # every kind counts
            counts.errors.append(repr(error))
            stayed = False
            if len(counts.errors) > 20:
                return
        counts.whole += stayed
        counts.left += not stayed
        if not stayed:
            connection[1].transport.abort() if rng.random() < 0.5 else connection[1].close()
            connection = None
    if connection:
        connection[1].close()


def metric(server, name):
    found = re.search(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", server.get("/metrics").body.decode(), re.M)
    return float(found.group(1))


def soak(server, counts, seconds):
    """All clients for so many seconds; the resident size in MiB once every one of them is through."""
    async def run():
        deadline = time.monotonic() + seconds
        await asyncio.gather(*(client(server.port, seed, deadline, counts) for seed in range(options.clients)))

    asyncio.run(run())
    for _ in range(100):  # the last to leave have to be noticed
        if metric(server, "quire:num_free_kv_blocks") == NUM_BLOCKS and metric(server, "quire:http_calls") == 1:
            break
        time.sleep(0.1)
    return server.rss_bytes() / 2**20


@test
def many_clients_come_and_go():
    need_model()
    counts = Counts()
    with Server("--num-kv-blocks", NUM_BLOCKS, "--max-model-len", "512", "--max-num-seqs", "128") as server:
        begin = server.rss_bytes() / 2**20
        middle = soak(server, counts, options.seconds / 2)  # every page of the pool has been touched by now
        end = soak(server, counts, options.seconds / 2)
        print(f"{counts.whole} answered, {counts.left} left midway, {counts.tokens} events, "
              f"{metric(server, 'vllm:num_preemptions_total'):.0f} preemptions, "
              f"resident {begin:.0f} -> {middle:.0f} -> {end:.0f} MiB")
        assert not counts.errors, counts.errors
        assert counts.whole > 0 and counts.left > 0
        assert metric(server, "quire:num_free_kv_blocks") == NUM_BLOCKS
        assert metric(server, "quire:http_calls") == 1  # this one
        assert metric(server, "vllm:num_requests_running") == metric(server, "vllm:num_requests_waiting") == 0
        assert end < middle * 1.05 + 16, "resident memory grows"
        assert server.get("/health").status == 200


main()
