"""--max-memory: what a proof takes is estimated from shapes before anything runs, and kept below the bound."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Run
from families import family
from hypothesis import given, settings
from hypothesis import strategies as st

import netfuse_onnx
from netfuse_onnx import arguments
from netfuse_onnx.errors import NotProven, UsageFault
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.prove.noise import measure
from netfuse_onnx.prove.sizes import MAX_MEMORY, Room, Search
from netfuse_onnx.prove.trial import Options, Trial
from netfuse_onnx.run import inputs, runtime
from netfuse_onnx.run.footprint import PROCESS, Footprint, Footprints, amount
from netfuse_onnx.run.inputs import Case
from netfuse_onnx.run.offers import Offers
from netfuse_onnx.run.runtime import Session
from netfuse_onnx.types import Correspondence

VOLUMES = """g (float[b, 1, d, h, w] volume) => (float[b, 3, d, h, w] y) {
    a = Conv <pads = [1, 1, 1, 1, 1, 1]> (volume, w0)
    n = InstanceNormalization(a, s, t)
    r = LeakyRelu(n)
    o = Conv(r, w1)
    y = Softmax <axis = 1> (o)
}"""
VOLUME_WEIGHTS = {"w0": (8, 1, 3, 3, 3), "s": (8,), "t": (8,), "w1": (3, 8, 1, 1, 1)}
LARGE = {"d": 256, "h": 256, "w": 256}


def matched(paths: list[str]) -> Correspondence:
    return match([load(path) for path in paths], [str(i) for i in range(len(paths))])


# --------------------------------------------------------------------------- the option


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("500M", 500 * 10**6),
        ("2G", 2 * 10**9),
        ("2GB", 2 * 10**9),
        ("2 gb", 2 * 10**9),
        ("1.5GiB", 3 * 2**29),
        ("900000KB", 9 * 10**8),
        ("3000000000", 3 * 10**9),
        ("3000000000B", 3 * 10**9),
        (3_000_000_000, 3 * 10**9),
        ("1T", 10**12),
    ],
)
def test_amounts_of_memory(text: str | int, size: int) -> None:
    assert arguments.memory(text) == size


@pytest.mark.parametrize("text", ["", "2X", "GB", "-2G", "2GG", "1e9", "two", "2G 1M", "٣G"])
def test_what_is_no_amount(text: str) -> None:
    with pytest.raises(UsageFault, match="is no amount of memory"):
        arguments.memory(text)


@pytest.mark.parametrize("text", ["100M", "0", 5])
def test_too_little(text: str | int) -> None:
    with pytest.raises(UsageFault, match="too little for a proof"):
        arguments.memory(text)


def test_the_option_of_the_command_line(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path, VOLUMES, VOLUME_WEIGHTS)
    out = tmp_path / "m.onnx"
    code, _, err = run("merge", *paths, "-o", out, "--max-memory", "2X")
    assert (code, out.exists()) == (2, False)
    assert "'2X' is no amount of memory." in err and "--max-memory 2GB" in err
    large = [part for name in LARGE for part in ("--dim", f"{name}={LARGE[name]}")]
    code, _, err = run("merge", *paths, "-o", out, *large)
    assert (code, out.exists()) == (NotProven.exit_code, False)
    assert "within the memory allowed: b=1, d=256, h=256, w=256: needs about" in err
    assert "--max-memory" in err.splitlines()[-1] and "--dim NAME=VALUE (there are b, d, h, w)" in err
    code, answer, _ = run("merge", *paths, "-o", out, "--max-memory", "300MB", "--json")
    assert code == 0
    values = json.loads(answer)["proof"]["values"]
    assert values["cases"] == ["b=1, d=8, h=12, w=16", "b=2, d=8, h=12, w=16"]
    assert values["shapes"]["b=2, d=8, h=12, w=16"] == {"volume": [2, 1, 8, 12, 16]}
    for verb in ("verify", "bench"):
        assert run(verb, out, *paths, "--max-memory", "2X")[0] == 2


# --------------------------------------------------------------------------- what is run


@pytest.mark.parametrize("verb", ["merge", "verify", "bench"])
def test_what_needs_too_much_is_not_run(tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = family(tmp_path, VOLUMES, VOLUME_WEIGHTS)
    out = str(tmp_path / "m.onnx")
    netfuse_onnx.merge(paths, out, verify=False)

    def never(self: Session, feeds: object) -> None:
        raise AssertionError("it was run")

    monkeypatch.setattr(Session, "run", never)
    call = {
        "merge": lambda: netfuse_onnx.merge(paths, out, dims=LARGE),
        "verify": lambda: netfuse_onnx.verify(out, paths, dims=LARGE),
        "bench": lambda: netfuse_onnx.bench(out, paths, dims=LARGE),
    }[verb]
    with pytest.raises(NotProven, match=r"b=1, d=256, h=256, w=256: needs about .* GB, and --max-memory"):
        call()


def test_the_message_for_static_shapes_says_nothing_of_sizes(tmp_path: Path) -> None:
    text = "g (float[9000, 9000] x) => (float[9000, 9000] y) { y = Neg(x) }"
    with pytest.raises(NotProven, match="static shapes: needs about") as caught:
        netfuse_onnx.merge(family(tmp_path, text), str(tmp_path / "m.onnx"))
    assert caught.value.hint == "Allow more with --max-memory."


def test_batches_that_need_too_much_are_reported_and_the_others_count(tmp_path: Path) -> None:
    paths = family(tmp_path, VOLUMES, VOLUME_WEIGHTS, count=5)
    dims = {"d": 32, "h": 32, "w": 48}
    report = netfuse_onnx.merge(paths, str(tmp_path / "m.onnx"), dims=dims, max_memory="300M")
    assert report.proof is not None
    assert report.proof.values.cases == ("b=1, d=32, h=32, w=48", "b=2, d=32, h=32, w=48")
    (skipped,) = report.proof.values.skipped
    assert skipped.startswith("b=5, d=32, h=32, w=48: needs about") and "allows 300 MB" in skipped
    assert any(skipped in warning for warning in report.warnings)


def test_given_inputs_are_bounded_too(tmp_path: Path) -> None:
    import numpy as np

    paths = family(tmp_path, VOLUMES, VOLUME_WEIGHTS)
    np.savez(tmp_path / "in.npz", volume=np.zeros((1, 1, 64, 64, 64), np.float32))
    with pytest.raises(NotProven, match="given inputs: needs about"):
        netfuse_onnx.merge(
            paths, str(tmp_path / "m.onnx"), inputs=str(tmp_path / "in.npz"), max_memory="200M"
        )


def test_noise_is_not_measured_where_copies_need_too_much(tmp_path: Path) -> None:
    paths = family(tmp_path, VOLUMES, VOLUME_WEIGHTS)
    trial = Trial(matched(paths), Options(runtime.Runtime("cpu")))
    trial.run_sources(lambda *_: None)
    wide = []
    run_one = trial.run
    trial.run = lambda session, model, feeds: (  # type: ignore[method-assign]
        wide.append(len(feeds["volume"])) or run_one(session, model, feeds)  # type: ignore[arg-type, func-returns-value]
    )
    measure(trial, 0, {0})
    assert {*wide} == {1, 4}
    wide.clear()
    trial.room.limit = trial.room.needed(trial.cases[0])
    measure(trial, 0, {0})
    assert {*wide} == {1}


@settings(max_examples=30, deadline=None)
@given(
    limit=st.integers(PROCESS + 10**6, 3 * 10**8),
    bound=st.dictionaries(st.sampled_from("dhw"), st.integers(1, 300)),
    batch=st.integers(1, 9),
    takes=st.integers(1, 200),
)
def test_no_size_above_the_bound_is_ever_run(
    volumes: Correspondence, limit: int, bound: dict[str, int], batch: int, takes: int
) -> None:
    """Whatever the source refuses, what is tried next stays below the bound."""
    specs = inputs.describe(volumes)
    room = Room(volumes, specs, limit)

    def run(case: Case) -> dict[str, object]:
        sizes = case.sizes
        least = 5 * 4 * 8 * math.prod(sizes[name] for name in "bdhw")  # one merged value of 8 channels
        assert PROCESS + least <= room.needed(case) <= limit
        if sizes["d"] < takes:
            raise runtime.RunFailed(f"{sizes['d']} is less than {takes}")
        return {}

    begin = room.begin(bound, [batch], 0)
    Search(run, room.refuse, lambda *_: None, 60).best(  # type: ignore[arg-type]
        Offers(specs, batch, bound, models=5, begin=begin)
    )


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Correspondence:
    return matched(family(tmp_path_factory.mktemp("volumes"), VOLUMES, VOLUME_WEIGHTS, count=5))


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory of one child is told on Unix only")
def test_a_network_of_volumes_is_proven_in_300_mb(tmp_path: Path) -> None:
    paths = family(tmp_path, VOLUMES, VOLUME_WEIGHTS, count=5)
    arguments = ["-m", "netfuse_onnx", "merge", *paths, "-o", str(tmp_path / "m.onnx")]
    command = [sys.executable, *arguments, "--share-input", "volume", "--json"]
    # A child's peak begins with that of the process that starts it, so a small one does.
    starter = "import os, sys; child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ); "
    starter += "_, status, usage = os.wait4(child, 0); print(status, usage.ru_maxrss, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", starter, *command], capture_output=True, text=True, check=True
    )
    status, peak = map(int, done.stderr.split()[-2:])
    assert os.waitstatus_to_exitcode(status) == 0
    assert peak * (1 if sys.platform == "darwin" else 1024) < 300 * 10**6
    values = json.loads(done.stdout)["proof"]["values"]
    assert len(values["cases"]) == 3 and values["spread"]["ratio"] > 10


# --------------------------------------------------------------------------- estimates


def footprint(folder: Path, text: str, shapes: dict[str, tuple[int, ...]], **sizes: int) -> Footprint:
    weights = {"w": (4, 4, 3)} if "(x, w)" in text else {}
    return Footprints(matched(family(folder, text, weights))).of(shapes, sizes)


def test_a_chain_holds_two_values_at_once(tmp_path: Path) -> None:
    found = footprint(
        tmp_path,
        "g (float[n] x) => (float[n] y) { a = Neg(x) b = Abs(a) c = Neg(b) y = Abs(c) }",
        {"x": (100,)},
    )
    assert (found.inputs, found.outputs, found.largest, found.widest) == (400, 400, 400, 100)
    assert found.peak == 1200  # the input, a value and what is made of it
    assert found.needed(4, 3) > PROCESS + 4 * (1200 + 400 + 400)
    assert found.needed(4, 3) - PROCESS > 2 * (found.needed(1, 3) - PROCESS)


def test_what_is_read_late_is_held(tmp_path: Path) -> None:
    text = """g (double[n] x) => (double[n] y) {
        a = Neg(x) b = Abs(x) c = Sin(x) d = Cos(x) ab = Add(a, b) cd = Add(c, d) y = Add(ab, cd) }"""
    assert footprint(tmp_path, text, {"x": (10,)}).peak == 80 * 6


def test_computed_shapes_count(tmp_path: Path) -> None:
    text = """g (float[n, s] x) => (float[n, a, b] y) <int64[1] two = {2}, float[2, 1] ones = {1., 1.}> {
        shape = Shape(x) to = Concat <axis = 0> (two, shape) wide = Expand(x, to) t = Transpose <perm = [1, 2, 0]> (wide)
        y = MatMul(t, ones) }"""
    assert footprint(tmp_path, text, {"x": (3, 5)}, n=3, s=5).largest == 2 * 3 * 5 * 4


def test_a_value_of_unknown_shape_counts_as_what_it_is_made_of(tmp_path: Path) -> None:
    text = "g (float[n] x) => (float[m] y) { c = Cast <to = 9> (x) y = Compress(x, c) }"
    found = footprint(tmp_path, text, {"x": (1000,)}, n=1000)
    assert found.outputs == 4000


@pytest.mark.parametrize(
    ("operator", "length", "hidden"),
    [
        ("Conv <kernel_shape = [3], pads = [1, 1]> (x, w)", 1, True),
        ("Conv <kernel_shape = [3], pads = [1, 1]> (x, w)", 2, False),
        ("Conv <kernel_shape = [3], dilations = [4], pads = [4, 4]> (x, w)", 4, True),
        ("Conv <kernel_shape = [3], dilations = [4], pads = [4, 4]> (x, w)", 5, False),
        ("Conv <kernel_shape = [3], dilations = [4], pads = [8, 0]> (x, w)", 8, True),
        ('Conv <kernel_shape = [3], auto_pad = "SAME_UPPER"> (x, w)', 2, False),
        ("Conv <kernel_shape = [3]> (x, w)", 3, True),  # it leaves one
        ("Conv <kernel_shape = [3]> (x, w)", 4, False),
        ("MaxPool <kernel_shape = [5], pads = [2, 2]> (x)", 2, True),
        ("AveragePool <kernel_shape = [2], strides = [2]> (x)", 4, False),
        ("GlobalAveragePool(x)", 2, False),
    ],
)
def test_what_short_inputs_hide(tmp_path: Path, operator: str, length: int, hidden: bool) -> None:
    text = f"g (float[n, 4, s] x) => (float[n, 4, t] y) {{ y = {operator} }}"
    known = Footprints(matched(family(tmp_path, text, {"w": (4, 4, 3)} if "(x, w)" in text else {})))
    short, long = (known.of({"x": (2, 4, size)}, {"n": 2, "s": size}) for size in (length, 64))
    assert short.hides(long) == hidden
    assert not long.hides(short)


def test_a_known_larger_one_bounds(tmp_path: Path) -> None:
    known = Footprints(matched(family(tmp_path)))
    large = known.of({"x": (9, 8)}, {"n": 9})
    assert known.bounding({"x": (3, 8)}) is large
    assert known.bounding({"x": (10, 8)}) is None


def test_amounts_are_told() -> None:
    assert [amount(n) for n in (1, 340 * 10**6, MAX_MEMORY, 5_200_000_000)] == [
        "1 MB",
        "340 MB",
        "2 GB",
        "5.2 GB",
    ]
