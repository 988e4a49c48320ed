"""The charts that the program writes: files that an XML parser takes, with the runs in them; trouble is reported."""
import pathlib
import tempfile
import xml.etree.ElementTree as tree

from harness import main, quire, test

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
def trouble_is_reported():
    done = quire("simulate", "--request-rate", 1, "--duration", 10, "--plots", "/nowhere/at/all", check=False)
    assert done.returncode == 1 and b"/nowhere/at/all" in done.stderr, done.stderr
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "memory.svg").symlink_to("/dev/full")
        done = quire("simulate", "--request-rate", 1, "--duration", 10, "--plots", folder, check=False)
        assert done.returncode == 1 and b"memory.svg" in done.stderr and b"No space left" in done.stderr, done.stderr


main()
