#!/usr/bin/env python3
"""quire_pull() and `quire pull` against a hub on the loopback.

    hub (one port)   /api/models/REPO/revision/REV    the listing
                     /REPO/resolve/SHA/FILE           small files themselves; large ones as a redirect to
    cdn (another)    /FILE                            which counts requests and misbehaves when told to
"""
import contextlib
import ctypes
import hashlib
import http.server
import json
import os
import pathlib
import resource
import tempfile
import threading
import time
import urllib.parse

from harness import QUIRE, Skip, main, quire, test

SHA = "0123456789abcdef0123456789abcdef01234567"
GGUF = bytes(range(256)) * 4096  # 1 MiB
STATUS = {"OK": 0, "INVALID": -1, "IO": -3, "FORMAT": -4, "ABORTED": -7, "NOT_FOUND": -8}

# ---- the hub


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()


class HubHandler(Handler):
    def do_GET(self):
        hub = self.server.hub
        hub.requests.append((self.command, self.path, self.headers.get("Authorization")))
        if hub.busy > 0:
            hub.busy -= 1
            return self.reply(503)
        if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.reply(401)
        path = urllib.parse.unquote(self.path)
        if path.startswith("/old/name/"):
            return self.reply(307, Location=self.path.replace("/old/name/", "/owner/name/"))
        if self.path in (f"/api/models/owner/name/revision/{rev}" for rev in ("main", "refs%2Fpr%2F1")):
            return self.reply(200, hub.listing())
        prefix = f"/owner/name/resolve/{SHA}/"
        name = path[len(prefix):]
        if not path.startswith(prefix) or name not in hub.files:
            return self.reply(404)
        data = hub.files[name]
        if name.endswith((".gguf", ".safetensors")):
            return self.reply(302, Location=f"{hub.cdn_url}/{urllib.parse.quote(name)}", X_Linked_Size=str(len(data)),
                              X_Linked_ETag=f'"{hashlib.sha256(data).hexdigest()}"')
        return self.reply(200, data, ETag='W/"' + hashlib.sha1(data).hexdigest() + '"')


class CdnHandler(Handler):
    def do_GET(self):
        hub = self.server.hub
        wanted = self.headers.get("Range")
        hub.cdn_requests.append((self.command, wanted, self.headers.get("Authorization")))
        if self.command == "HEAD":
            return self.reply(403)  # as signed URLs do
        data = hub.files[urllib.parse.unquote(self.path[1:])]
        if hub.corrupt:
            data = data[:100] + b"?" + data[101:]
        start = 0
        if wanted and hub.ranges:
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            if start >= len(data):
                return self.reply(416, Content_Range=f"bytes */{len(data)}")
        headers = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        body = data[start:]
        if hub.drops > 0:  # an honest length, half the body, and the line goes dead
            hub.drops -= 1
            self.reply(206 if start else 200, body[:len(body) // 2], Content_Length=str(len(body)), **headers)
            self.close_connection = True
            return None
        if hub.slow:
            self.reply(200, b"", Content_Length=str(len(body)), **headers)
            with contextlib.suppress(OSError):
                for i in range(0, len(body), 65536):
                    self.wfile.write(body[i:i + 65536])
                    time.sleep(0.05)
            return None
        return self.reply(206 if start else 200, body, **headers)


class Hub:
    """Both servers, a model folder, and the environment that points to them, for the time of a `with`."""

    def __init__(self, files, token=None):
        self.files, self.token = files, token
        self.names = list(files)
        self.requests, self.cdn_requests = [], []
        self.busy = self.busy_after_listing = self.drops = 0
        self.ranges, self.corrupt, self.slow = True, False, False

    def listing(self):
        self.busy = self.busy_after_listing
        return json.dumps({"id": "owner/name", "sha": SHA, "siblings": [{"rfilename": n} for n in self.names]}).encode()

    def start(self, handler):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.hub = self
        server.handle_error = lambda *args: None  # clients that hang up are part of the tests
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server, f"http://127.0.0.1:{server.server_address[1]}"

    def __enter__(self):
        self.server, self.url = self.start(HubHandler)
        self.cdn, self.cdn_url = self.start(CdnHandler)
        self.temp = tempfile.TemporaryDirectory()
        self.models = pathlib.Path(self.temp.name) / "models"
        self.folder = self.models / "owner" / "name"
        self.env = {"HF_ENDPOINT": self.url + "/", "QUIRE_MODELS": str(self.models), "no_proxy": "127.0.0.1"}
        os.environ.update(self.env)
        os.environ.pop("HF_TOKEN", None)
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.cdn.shutdown()
        self.temp.cleanup()

    def write_part(self, data, name="m.gguf"):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / (name + ".part")).write_bytes(data)

    def left(self):
        return sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.is_file())

    def downloads(self):
        return [wanted for command, wanted, _ in self.cdn_requests if command == "GET"]


# ---- the library

Progress = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint64, ctypes.c_uint64)


class Options(ctypes.Structure):
    _fields_ = [(name, ctypes.c_char_p) for name in ("repo", "file", "revision", "endpoint", "token", "dest_dir")] + [
        ("on_progress", Progress), ("user", ctypes.c_void_p)]


class Error(ctypes.Structure):
    _fields_ = [("message", ctypes.c_char * 512), ("param", ctypes.c_char * 64)]


library = ctypes.CDLL(str(pathlib.Path(QUIRE).parent / "libquire.so"))
library.quire_free.argtypes = [ctypes.c_void_p]


def pull(repo="owner/name", on_progress=None, **options):
    """(status, path or message)"""
    o, error, path = Options(), Error(), ctypes.c_void_p()
    library.quire_pull_options_init(ctypes.byref(o))
    o.repo = repo.encode()
    for name, value in options.items():
        setattr(o, name, str(value).encode())
    if on_progress:
        o.on_progress = Progress(lambda user, file, done, total: on_progress(file.decode(), done, total))
    status = library.quire_pull(ctypes.byref(o), ctypes.byref(path), ctypes.byref(error))
    if status != 0:
        return status, error.message.decode()
    text = ctypes.string_at(path.value).decode()
    library.quire_free(path)
    return status, text


def expect(status, text, result):
    assert result[0] == STATUS[status] and text in result[1], f"expected {status} {text!r}, got {result}"


# ---- tests


@test
def one_gguf_is_found_and_fetched():
    with Hub({"README.md": b"#", "config.json": b"{}", "m.gguf": GGUF}) as hub:
        seen = []
        expect("OK", str(hub.folder / "m.gguf"), pull(on_progress=lambda *a: seen.append(a) or True))
        assert (hub.folder / "m.gguf").read_bytes() == GGUF
        assert hub.left() == ["m.gguf"]
        assert seen[-1] == ("m.gguf", len(GGUF), len(GGUF)), seen[-1]
        assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)


@test
def a_file_that_is_there_is_checked_and_not_fetched_again():
    with Hub({"m.gguf": GGUF}) as hub:
        expect("OK", "m.gguf", pull())
        expect("OK", "m.gguf", pull())
        assert hub.downloads() == [None]
        (hub.folder / "m.gguf").write_bytes(GGUF[:-1] + b"?")
        expect("OK", "m.gguf", pull())
        assert hub.downloads() == [None, None] and (hub.folder / "m.gguf").read_bytes() == GGUF


@test
def the_token_reaches_the_hub_and_nobody_else():
    with Hub({"m.gguf": GGUF}, token="hf_secret") as hub:
        expect("NOT_FOUND", "set HF_TOKEN", pull())
        os.environ["HF_TOKEN"] = "hf_secret"
        expect("OK", "m.gguf", pull())
        assert all(token is None for _, _, token in hub.cdn_requests), hub.cdn_requests
        os.environ["HF_TOKEN"] = "hf_wrong"
        expect("NOT_FOUND", "HTTP 401", pull())
        expect("OK", "m.gguf", pull(token="hf_secret"))
        expect("INVALID", "token", pull(token="two\r\nlines"))


@test
def a_part_is_continued():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.write_part(GGUF[:300000])
        expect("OK", "m.gguf", pull())
        assert hub.downloads() == ["bytes=300000-"]
        assert (hub.folder / "m.gguf").read_bytes() == GGUF and hub.left() == ["m.gguf"]


@test
def a_whole_part_needs_no_download():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.write_part(GGUF)
        expect("OK", "m.gguf", pull())
        assert hub.downloads() == [] and hub.left() == ["m.gguf"]


@test
def a_part_of_something_else_is_thrown_away():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.write_part(b"x" * 300000)
        expect("OK", "m.gguf", pull())
        assert hub.downloads() == ["bytes=300000-", None] and (hub.folder / "m.gguf").read_bytes() == GGUF
        hub.folder.joinpath("m.gguf").unlink()
        hub.write_part(b"x" * 2 * len(GGUF))
        expect("OK", "m.gguf", pull())
        assert (hub.folder / "m.gguf").read_bytes() == GGUF


@test
def a_server_without_ranges_sends_the_whole():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.ranges = False
        hub.write_part(GGUF[:300000])
        expect("OK", "m.gguf", pull())
        assert (hub.folder / "m.gguf").read_bytes() == GGUF


@test
def dead_lines_and_busy_servers_are_tried_again():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.drops = 2
        hub.busy_after_listing = 1
        expect("OK", "m.gguf", pull())
        assert [command for command, _, _ in hub.requests] == ["GET", "HEAD", "HEAD", "GET", "GET", "GET"]
        half = len(GGUF) // 2
        assert hub.downloads() == [None, f"bytes={half}-", f"bytes={half + half // 2}-"], hub.downloads()
        assert (hub.folder / "m.gguf").read_bytes() == GGUF


@test
def a_busy_hub_is_an_error_for_the_listing():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.busy = 1
        expect("IO", "HTTP status 503", pull())


@test
def damaged_data_never_becomes_a_file():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.corrupt = True
        expect("IO", "SHA-256", pull())
        assert hub.left() == []
        (hub.folder / "m.gguf").write_bytes(b"what was there before")
        expect("IO", "SHA-256", pull())
        assert (hub.folder / "m.gguf").read_bytes() == b"what was there before" and hub.left() == ["m.gguf"]


@test
def a_stopped_download_can_go_on():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.slow = True
        expect("ABORTED", "stopped", pull(on_progress=lambda file, done, total: done < 200000))
        assert hub.left() == ["m.gguf.part"]
        size = (hub.folder / "m.gguf.part").stat().st_size
        assert 200000 <= size < len(GGUF)
        hub.slow = False
        expect("OK", "m.gguf", pull())
        assert hub.downloads()[-1] == f"bytes={size}-" and (hub.folder / "m.gguf").read_bytes() == GGUF


@test
def a_full_disk_is_an_error_and_the_part_is_kept():
    with Hub({"m.gguf": GGUF}) as hub:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (500000, hard))
        try:
            expect("IO", "cannot write", pull())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert hub.left() == ["m.gguf.part"] and (hub.folder / "m.gguf.part").stat().st_size == 500000
        expect("OK", "m.gguf", pull())


@test
def an_unwritable_folder_is_an_error():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.models.write_text("a file where the folder should be")
        expect("IO", "cannot make the folder", pull())


@test
def names_that_leave_the_folder_are_refused():
    for name in ("../../evil.gguf", "/tmp/evil.gguf", "a/../../evil.gguf", "a//evil.gguf", "a\\..\\evil.gguf", "./e.gguf"):
        with Hub({name: GGUF}) as hub:
            result = pull()
            assert result[0] in (STATUS["FORMAT"], STATUS["INVALID"]), (name, result)
            assert hub.cdn_requests == []
    with Hub({"m.gguf": GGUF}):
        for repo in ("../owner", "owner/..", "a/b/c", "owner/na me", "", "/owner", "owner/"):
            expect("INVALID", "repo: expected OWNER/NAME", pull(repo))
        expect("INVALID", "file", pull(file="../m.gguf"))
        expect("INVALID", "endpoint", pull(endpoint="ftp://127.0.0.1"))


@test
def files_are_chosen():
    files = {f"m.{q}.gguf": GGUF + q.encode() for q in ("Q4_0", "Q8_0")}
    with Hub({**files, "sub dir/x+y.gguf": GGUF, "mmproj-m.gguf": GGUF}) as hub:
        expect("INVALID", "m.Q8_0.gguf", pull())
        expect("NOT_FOUND", "GGUF files there: m.Q4_0.gguf m.Q8_0.gguf", pull(file="m.Q5_0.gguf"))
        expect("OK", "m.Q8_0.gguf", pull(file="m.Q8_0.gguf"))
        expect("OK", "sub dir/x+y.gguf", pull(file="sub dir/x+y.gguf"))
        assert hub.left() == ["m.Q8_0.gguf", "sub dir/x+y.gguf"]


@test
def all_parts_of_a_split_file_come():
    names = [f"m-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    with Hub({name: GGUF[:1000 * i] for i, name in enumerate(names, 1)}) as hub:
        expect("OK", names[0], pull())
        assert hub.left() == names
        hub.names.remove(names[1])
        expect("NOT_FOUND", "no such file", pull())


@test
def a_safetensors_checkpoint_is_a_folder():
    wanted = {name: name.encode() for name in (
        "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "merges.txt",
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")}
    others = {name: b"no" for name in ("README.md", "pytorch_model.bin", "consolidated.safetensors",
                                       "onnx/model.safetensors", "onnx/config.json", ".gitattributes")}
    with Hub({**others, **wanted}) as hub:
        expect("OK", str(hub.folder), pull())
        assert hub.left() == sorted(wanted)
        assert all((hub.folder / name).read_bytes() == data for name, data in wanted.items())


@test
def folder_revision_and_endpoint_are_honoured():
    with Hub({"m.gguf": GGUF}) as hub:
        dest = hub.models.parent / "dest" / "deep"
        os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
        expect("OK", str(dest / "m.gguf"), pull(dest_dir=dest, endpoint=hub.url, revision="refs/pr/1"))
        assert hub.requests[0][1] == "/api/models/owner/name/revision/refs%2Fpr%2F1"
        expect("NOT_FOUND", "HTTP 404", pull(endpoint=hub.url, revision="gone"))
        expect("NOT_FOUND", "HTTP 404", pull("nobody/nothing", endpoint=hub.url))
        expect("IO", "127.0.0.1:9", pull())


@test
def a_file_that_vanished_is_not_found():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.names = ["n.gguf"]
        expect("NOT_FOUND", "HTTP 404", pull())
        assert not hub.folder.exists()


@test
def an_answer_that_is_no_listing_is_an_error():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.listing = lambda: b"<html>"
        expect("FORMAT", "line 1", pull())
        hub.listing = lambda: b"{}"
        expect("FORMAT", "lists no files", pull())
        hub.listing = lambda: b'{"siblings": [1, {}, {"rfilename": 2}]}'
        expect("INVALID", "none", pull())


@test
def two_downloads_of_one_file_do_not_mix():
    with Hub({"m.gguf": GGUF}) as hub:
        hub.slow = True
        first = []
        thread = threading.Thread(target=lambda: first.append(pull()))
        thread.start()
        while not hub.cdn_requests:
            time.sleep(0.01)
        expect("IO", "another download", pull())
        thread.join()
        expect("OK", "m.gguf", first[0])
        assert (hub.folder / "m.gguf").read_bytes() == GGUF


@test
def the_program_pulls():
    if not pathlib.Path(QUIRE).exists():
        raise Skip("no program built")
    with Hub({"m.gguf": GGUF}) as hub:
        quire("pull", "owner/name", env=hub.env)
        assert (hub.folder / "m.gguf").read_bytes() == GGUF
        assert quire("pull", "owner/name:absent.gguf", env=hub.env, check=False).returncode != 0


main()
