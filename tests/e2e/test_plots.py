"""The charts that the program writes: files that an XML parser takes, with the runs in them; trouble is reported."""
import json
import pathlib
import tempfile
import xml.etree.ElementTree as tree

from harness import ROOT, main, quire, test

SVG = "{http://www.w3.org/2000/svg}"


def texts(path):
    root = tree.parse(path).getroot()
    assert root.tag == SVG + "svg" and root.find(SVG + "title") is not None and root.find(SVG + "desc") is not None
    return [element.text for element in root.iter(SVG + "text")]


@test
def simulate_draws_its_runs():
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "plots"
        quire("simulate", "--kv-allocator", "vllm,orca-max", "--request-rate", "0.5,2", "--duration", 60, "--plots", out)
        names = {path.stem for path in out.glob("*.svg")}
        runs = {f"{what}-{policy}-{rate}" for what in ("kv", "requests") for policy in ("vllm", "orca-max")
                for rate in ("0.5", "2")}
        assert names == runs | {"latency", "batched", "memory"}, names
        for path in out.glob("*.svg"):
            assert texts(path), path
        assert {"vllm", "orca-max", "0.5", "2.0", "Request rate (requests/s)"} <= set(texts(out / "batched.svg"))
        assert {"live tokens", "reserved", "KV slots (%)"} <= set(texts(out / "memory.svg"))
        first = (out / "memory.svg").read_bytes()
        quire("simulate", "--kv-allocator", "vllm,orca-max", "--request-rate", "0.5,2", "--duration", 60, "--plots", out)
        assert (out / "memory.svg").read_bytes() == first, "the same run draws the same"


@test
def one_rate_has_no_curve():
    with tempfile.TemporaryDirectory() as folder:
        quire("simulate", "--request-rate", "inf", "--num-prompts", 20, "--plots", folder)
        assert {path.name for path in pathlib.Path(folder).glob("*")} == {
            "kv-vllm-inf.svg", "requests-vllm-inf.svg", "memory.svg"}


@test
def paper_writes_a_page():
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "paper"
        trace = ROOT / "data" / "traces" / "azure_llm_2023_code.csv"
        args = ("paper", "--hours", 0.002, "--trace", trace)
        assert quire(*args, "--out", out).stdout.decode().strip() == f"{out}/index.html"
        page = (out / "index.html").read_text()
        root = tree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
        figures = json.loads((out / "figures.json").read_text())
        assert [figure["figure"] for figure in figures] == [
            "fig2", "fig12", "fig13", "fig14", "fig15", "fig16", "fig17", "fig18", "fig19", "today"]
        assert all(figure["rows"] for figure in figures)
        inline = {svg.find(SVG + "desc").get("id").removesuffix("-d") for svg in root.iter(SVG + "svg")}
        assert inline == {path.stem for path in out.glob("*.svg")} and len(inline) > 20, inline
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(ids) == len(set(ids)), "no id twice in the page"
        assert "<script" not in page and not any(
            element.get("src") or (element.get("href") or "#")[0] != "#" for element in root.iter())
        quire(*args, "--out", folder, "--threads", 1)
        assert (pathlib.Path(folder) / "index.html").read_text() == page, "threads change nothing"


@test
def trouble_is_reported():
    done = quire("simulate", "--request-rate", 1, "--duration", 10, "--plots", "/nowhere/at/all", check=False)
    assert done.returncode == 1 and b"/nowhere/at/all" in done.stderr, done.stderr
    done = quire("paper", "--out", "/nowhere/at/all", check=False, timeout=5)
    assert done.returncode == 1 and b"/nowhere/at/all" in done.stderr, done.stderr
    done = quire("paper", "--trace", "/nowhere", check=False)
    assert done.returncode == 1 and b"/nowhere" in done.stderr, done.stderr
    with tempfile.NamedTemporaryFile() as lengths:
        lengths.write(b"prompt_tokens,output_tokens\n10,10\n")
        lengths.flush()
        done = quire("paper", "--trace", lengths.name, check=False)
        assert done.returncode == 1 and b"no arrival times" in done.stderr, done.stderr
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "memory.svg").symlink_to("/dev/full")
        done = quire("simulate", "--request-rate", 1, "--duration", 10, "--plots", folder, check=False)
        assert done.returncode == 1 and b"memory.svg" in done.stderr and b"No space left" in done.stderr, done.stderr


main()
