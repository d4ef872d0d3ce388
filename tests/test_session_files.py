"""A session over real files answers what the models' own files do, in each I/O mode, at any load and to the end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_engine import FakeCosts
from families import MLP, MLP_TEXT, family, model, save

import netfuse_onnx
from netfuse_onnx import MergedSession
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.runtime.errors import BadInput, CallFailed, TooLarge

LIMIT = 60.0
"""Seconds that a process of a test may take."""
GATHER = "g (int64[n, 3] ids) => (float[n, 3, 4] y) { y = Gather(table, ids) }"
MODES = {
    "separate": {},
    "stacked": {"io": "stacked"},
    "selected": {"io": "selected"},
    "slots": {"io": "routed", "routing": "slots"},
    "index": {"io": "routed", "routing": "index"},
}


def bundle(folder: Path, text: str = MLP_TEXT, weights: Any = None, count: int = 4, **options: Any) -> Path:
    """A family merged with views, without proofs."""
    folder.mkdir(exist_ok=True)
    sources = family(folder, text, weights or MLP, count)
    netfuse_onnx.merge(sources, str(folder / "served"), views=True, verify=False, **options)
    return folder / "served"


def merging(path: Path) -> MergedSession:
    """Open a session for which merged calls are cheap, so that small models are merged, too."""
    session = MergedSession(path, calibrate=0.0)
    engine = session._dispatcher.current.engine
    engine.costs = FakeCosts(merged=0.01)
    return session


def opening(path: Path) -> MergedSession:
    """Open a session for which it always pays to open that of a model."""
    session = MergedSession(path, calibrate=0.0)
    engine: Any = session._dispatcher.current.engine
    engine._openings.pays = lambda model, lost: True
    return session


class Sources:
    """The sessions of the models' own files."""

    def __init__(self, folder: Path, output: str = "y") -> None:
        self.models = {
            path.stem: onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            for path in sorted(folder.glob("?.onnx"))
        }

    def right(self, model: str, feeds: dict[str, Any], outputs: dict[str, Any]) -> None:
        """Fail where outputs are not those of the model."""
        (wanted,) = self.models[model].run(["y"], feeds)
        assert outputs.keys() == {"y"} and outputs["y"].dtype == wanted.dtype
        np.testing.assert_allclose(outputs["y"], wanted, rtol=1e-4, atol=1e-5)


def x(seed: int, rows: int = 1) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).standard_normal((rows, 8)).astype(np.float32)}


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_and_way_in_gives_what_the_own_files_give(mode: str, tmp_path: Path) -> None:
    path, sources = bundle(tmp_path, **MODES[mode]), Sources(tmp_path)
    with merging(path) as session:
        assert session.models == ("a", "b", "c", "d")
        for k, model in enumerate("abcd"):
            sources.right(model, x(k, k + 1), session.run(model, x(k, k + 1)))
        for pairs in (
            [(model, x(k)) for k, model in enumerate("abcd")],
            [(model, x(k, 2)) for k, model in enumerate("dacb")],
            [(model, x(k, 1 + k % 3)) for k, model in enumerate("abcdabcdbbbb")],
        ):
            for _ in range(3):  # new buffers, then bound ones
                for (model, feeds), outputs in zip(pairs, session.run_many(pairs), strict=True):
                    sources.right(model, feeds, outputs)
        for model, outputs in session.run_all(x(1)).items():
            sources.right(model, x(1), outputs)
        answers = [(model, x(k), session.submit(model, x(k))) for k, model in enumerate("abcd" * 8)]
        for model, feeds, answer in answers:
            sources.right(model, feeds, answer.result(LIMIT))
        sources.right("c", x(5), asyncio.run(session.arun("c", x(5))))
        assert session.stats()["calls"]["merged"] > 0


@pytest.mark.parametrize("mode", ["separate", "selected", "index"])
def test_many_threads_over_real_files(mode: str, tmp_path: Path) -> None:
    path, sources = bundle(tmp_path, **MODES[mode]), Sources(tmp_path)

    def client(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for k in range(60):
            model, feeds = "abcd"[draw.integers(4)], x(1000 * seed + k, int(draw.integers(1, 4)))
            sources.right(model, feeds, session.run(model, feeds))

    with merging(path) as session, ThreadPoolExecutor(6) as pool:
        list(pool.map(client, range(6)))
        assert session.stats()["requests"]["answered"] == 360
        assert session.stats()["requests"]["failed"] == session.stats()["scheduler_faults"] == 0


def test_a_bad_index_fails_its_own_request_alone(tmp_path: Path) -> None:
    path = bundle(tmp_path, GATHER, {"table": (9, 4)}, io="stacked")
    sources = Sources(tmp_path)
    good, bad = {"ids": np.array([[1, 2, 3]])}, {"ids": np.array([[1, 99, 3]])}
    with merging(path) as session:
        for _ in range(3):
            pairs = [(model, bad if model == "b" else good) for model in "abcd"]
            outcomes = session.run_many(pairs, return_errors=True)
            assert isinstance(outcomes[1], CallFailed) and "Gather" in str(outcomes[1])
            for model in "acd":
                sources.right(model, good, outcomes["abcd".index(model)])
        assert session.stats()["kept_out"] == ["b"]
        for outputs, model in zip(session.run_many([(m, good) for m in "abcd"]), "abcd", strict=True):
            sources.right(model, good, outputs)


def test_nan_stays_with_its_model(tmp_path: Path) -> None:
    path, sources = bundle(tmp_path, io="stacked"), Sources(tmp_path)
    odd = {"x": np.full((1, 8), np.nan, np.float32)}
    with merging(path) as session:
        for _ in range(3):
            outcomes = session.run_many([("a", x(1)), ("b", odd), ("c", x(2)), ("d", x(3))])
            assert np.isnan(outcomes[1]["y"]).all()
            for k, model in ((0, "a"), (2, "c"), (3, "d")):
                sources.right(model, {0: x(1), 2: x(2), 3: x(3)}[k], outcomes[k])


def test_checks_say_the_model_and_the_input(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    with MergedSession(path, calibrate=0.0, max_batch=8) as session:
        with pytest.raises(BadInput) as bad:
            session.run("b", {"x": np.zeros((1, 9), np.float32)})
        assert (bad.value.model, bad.value.input) == ("b", "x")
        with pytest.raises(TooLarge):
            session.submit("b", x(0, 9))


def test_a_lone_merged_file_serves_single_models(tmp_path: Path) -> None:
    """Without own sessions every call is merged; without proof that rows are apart, they do not meet."""
    sources = family(tmp_path, count=4)
    netfuse_onnx.merge(sources, str(tmp_path / "merged.onnx"), verify=False)
    (tmp_path / "merged.onnx").rename(tmp_path / "lone.onnx")
    own = Sources(tmp_path)
    with MergedSession(tmp_path / "lone.onnx", calibrate=0.05) as session:
        for pairs in ([("b", x(1))], [("b", x(1)), ("b", x(2, 3)), ("c", x(3))]):
            for (model, feeds), outputs in zip(pairs, session.run_many(pairs), strict=True):
                own.right(model, feeds, outputs)
        own.right("d", x(4), session.run("d", x(4)))


def test_an_open_session_outlives_its_folder(tmp_path: Path) -> None:
    """Another bundle takes its place, and then its own files are removed: views that were never opened are
    opened from the files that stay, and then the merged file, which is open, answers for them."""
    path = bundle(tmp_path)
    with opening(path) as session, opening(path) as other:
        expected = {m: Sources(tmp_path).models[m].run(None, x(3))[0] for m in session.models}
        sources = [str(tmp_path / f"{m}.onnx") for m in reversed(session.models)]
        netfuse_onnx.merge(sources, str(path), views=True, verify=False)
        assert all(np.array_equal(session.run(m, x(3))["y"], expected[m]) for m in session.models)
        for file in path.iterdir():
            file.unlink()
        for m in other.models:
            np.testing.assert_allclose(other.run(m, x(3))["y"], expected[m], rtol=1e-5, atol=1e-6)
        assert other.stats()["requests"]["failed"] == 0


def test_a_small_batch_bounds_the_rows_of_merged_calls(tmp_path: Path) -> None:
    with MergedSession(bundle(tmp_path), max_batch=2) as session:
        assert len(session.run("a", x(0, 2))["y"]) == 2
        with pytest.raises(TooLarge, match="may have 2"):
            session.run("a", x(0, 3))


def test_a_swap_to_other_weights_and_models_under_load(tmp_path: Path) -> None:
    paths = [bundle(tmp_path / "old", count=3), bundle(tmp_path / "new", count=4, io="stacked")]
    # Other weights: the new family's first models are the old one's last ones.
    for k, name in enumerate("ba"):
        (tmp_path / "new" / f"{'ab'[k]}.onnx").write_bytes((tmp_path / "old" / f"{name}.onnx").read_bytes())
    sources = [str(path) for path in sorted((tmp_path / "new").glob("?.onnx"))]
    netfuse_onnx.merge(sources, str(paths[1]), views=True, verify=False, io="stacked")
    own = [Sources(tmp_path / "old"), Sources(tmp_path / "new")]
    ends = [0, 0]

    def client(seed: int) -> None:
        for k in range(80):
            model, feeds = "abc"[k % 3], x(100 * seed + k)
            outputs = session.run(model, feeds)
            told = [
                np.allclose(one.models[model].run(["y"], feeds)[0], outputs["y"], rtol=1e-4, atol=1e-5)
                for one in own
            ]
            assert any(told)
            ends[told.index(True)] += 1

    with MergedSession(paths[0], calibrate=0.0) as session, ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, seed) for seed in range(4)]
        for k in range(4):
            session.swap(paths[(k + 1) % 2])
        session.swap(paths[1])
        for one in clients:
            one.result(LIMIT)
        own[1].right("d", x(1), session.run("d", x(1)))
        with pytest.raises(FileFault):
            session.swap(tmp_path / "nothing.onnx")
        for empty in ("", " "):
            with pytest.raises(UsageFault, match="The path is empty"):
                session.swap(empty)
            with pytest.raises(UsageFault, match="The path is empty"):
                MergedSession(empty)
        own[1].right("d", x(1), session.run("d", x(1)))
        assert session.stats()["old_generations"] == 0 and session.stats()["requests"]["failed"] == 0


def test_an_ensemble_takes_the_names_of_its_first_model(tmp_path: Path) -> None:
    odd = MLP_TEXT.replace("] x)", "] z)").replace("(x, w1)", "(z, w1)")
    sources = [*family(tmp_path, count=2), save(tmp_path / "c.onnx", model(odd, MLP, seed=2))]
    netfuse_onnx.merge(sources, str(tmp_path / "served"), views=True, verify=False)
    own = Sources(tmp_path)
    with MergedSession(tmp_path / "served", calibrate=0.0) as session:
        every = session.run_all(x(1, 2))
        own.right("b", x(1, 2), every["b"])
        own.right("c", {"z": x(1, 2)["x"]}, every["c"])
        mean = session.run_all(x(1, 2), reduce="mean")
        np.testing.assert_allclose(mean["y"], np.mean([one["y"] for one in every.values()], 0), rtol=1e-5)


@pytest.mark.parametrize("option", ["max_rows", "max_batch", "max_queue", "max_queue_per_model", "workers"])
def test_options_that_make_no_sense_are_refused(option: str) -> None:
    for value in (0, 2.5, "8"):
        with pytest.raises(UsageFault, match=option):
            MergedSession("", **{option: value})  # type: ignore[arg-type]


def test_options_that_would_have_no_effect_are_refused(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    with pytest.raises(UsageFault, match="'tipo'"):
        MergedSession(path, pad={"tipo": 1})
    with pytest.raises(UsageFault, match="its own views"):
        MergedSession(path, sources=["a.onnx"])


# ------------------------------------------------------------------------------ processes


def script(text: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", textwrap.dedent(text), *map(str, arguments)],
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip


def test_serving_loads_neither_onnx_nor_the_compiler(tmp_path: Path) -> None:
    path = bundle(tmp_path)
    done = script(
        """
        import sys, numpy
        from netfuse_onnx import MergedSession
        with MergedSession(sys.argv[1], calibrate=0.0) as session:
            session.submit("a", {"x": numpy.zeros((1, 8), "float32")}).result()
        heavy = {"onnx", "onnx_graphsurgeon", "torch", "click", "rich"} & sys.modules.keys()
        parts = {n for n in sys.modules if n.startswith("netfuse_onnx.")}
        allowed = {"errors", "edges", "combining", "expressions", "library", "runtime"}
        print(heavy, {n for n in parts if n.split(".")[1] not in allowed})
        """,
        path,
    )
    assert (done.returncode, done.stdout) == (0, "set() set()\n"), done.stderr


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyError", "os.kill(os.getpid(), signal.SIGINT)"])
def test_a_process_ends_although_its_session_is_open(end: str, tmp_path: Path) -> None:
    """Requests wait and run in that moment."""
    path = bundle(tmp_path)
    done = script(
        f"""
        import os, signal, sys, numpy
        from netfuse_onnx import MergedSession
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has it ignored
        session = MergedSession(sys.argv[1], calibrate=0.0)
        feeds = {{"x": numpy.zeros((64, 8), "float32")}}
        answers = [session.submit("abcd"[k % 4], feeds) for k in range(200)]
        answers[0].result()
        print("here", flush=True)
        {end}
        """,
        path,
    )
    assert done.stdout == "here\n", done.stderr
    assert done.returncode == {"": 0, "sys.exit(3)": 3, "raise KeyError": 1}.get(end, -2), done.stderr
    assert "Fatal" not in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_refuses_requests_and_ends(tmp_path: Path) -> None:
    """The child is told to open a session of its own, while the parent goes on."""
    path = bundle(tmp_path)
    done = script(
        """
        import gc, os, sys, threading, numpy
        from netfuse_onnx import MergedSession
        from netfuse_onnx.runtime.errors import Closed
        feeds = {"x": numpy.zeros((1, 8), "float32")}
        session = MergedSession(sys.argv[1], calibrate=0.0)
        session.submit("a", feeds).result()
        waits = [session.submit("b", feeds) for _ in range(50)]
        child = os.fork()
        if not child:
            for way in (session.run, session.submit):
                try:
                    way("a", feeds)
                except Closed as error:
                    print(error, flush=True)
            session.close()
            with MergedSession(sys.argv[1], calibrate=0.0) as own:
                print(own.submit("a", feeds).result(10)["y"].shape, flush=True)
            waits, session, way = [], None, None
            gc.collect()  # whose end would wait for threads that are not here
            sys.exit(7)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        print(sum(one.result(10)["y"].shape == (1, 4) for one in waits), session.run("a", feeds)["y"].shape)
        """,
        path,
    )
    told = "The session was opened before this process was forked off. Open one in each process.\n"
    assert done.stdout == told * 2 + "(1, 4)\n7\n50 (1, 4)\n", done.stderr


GRAPH = (
    "g (float[n, 8] x, float[n, n] edges) => (float[n, 8] y) "
    "{ m = MatMul(edges, x) z = MatMul(m, w0) y = Relu(z) }"
)
"""A network of graphs: the number of nodes is no batch, so a model has one request in a call."""


@pytest.mark.parametrize("lone", [True, False])
def test_models_without_a_batch_are_measured_and_served(lone: bool, tmp_path: Path) -> None:
    """Rows can't meet in a call, not even in those that measure what calls cost."""
    path = bundle(tmp_path, GRAPH, {"w0": (8, 8)}, io="stacked")
    if lone:
        (path,) = path.glob("merged*.onnx")
    rng = np.random.default_rng(0)
    feeds = {"x": rng.standard_normal((5, 8), np.float32), "edges": rng.standard_normal((5, 5), np.float32)}
    own = Sources(tmp_path)
    with MergedSession(path, calibrate=0.05) as session:
        answers = [session.submit(model, feeds) for model in "abcdab"]
        for model, answer in zip("abcdab", answers, strict=True):
            own.right(model, feeds, answer.result(LIMIT))
        assert session.stats()["scheduler_faults"] == 0
