"""Plans that the metadata record, node by node, and plans for several sizes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run, refused
from families import WIDE, WIDE_WEIGHTS, family, tampered
from onnx import ModelProto

import netfuse_onnx
from netfuse_onnx import arguments, opened, sources
from netfuse_onnx.dims import points
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.plan import planner, recorded
from netfuse_onnx.plan.costs import cost
from netfuse_onnx.plan.several import Several
from netfuse_onnx.plans import Plan
from netfuse_onnx.types import Choice, Correspondence
from netfuse_onnx.write import metadata, writer

LOOP = """g (float[n, 4] x, int64 t, bool c) => (float[n, 4] y) {
    r = Relu(x)
    y = Loop (t, c, r) <body = b (int64 i, bool go, float[n, 4] s) => (bool on, float[n, 4] z) {
        on = Identity(go)
        m = MatMul(s, w)
        z = Tanh(m)
    }>
}"""
Row = dict[str, object]
Change = Callable[[dict[str, list[Row]]], object]


def matched(paths: list[str], made_for: str = "cpu") -> Correspondence:
    return opened.matched(sources.read(paths), [Path(path).stem for path in paths], False, (), made_for)


def plans(found: Correspondence, share: frozenset[str] = frozenset()) -> list[list[Choice]]:
    """Every plan of a family: each combination of the lowerings on offer."""
    offers = planner.candidates(found, io="separate", share=share, cost=cost("cpu", found, {}))
    each = [[*recorded.choices(some)] for some in itertools.islice(itertools.product(*offers.options), 200)]
    return each


def written(folder: Path, paths: list[str], rows: list[Choice]) -> str:
    """A merged file with a recorded plan."""
    found, price = matched(paths), cost("cpu", matched(paths), {})
    offers = planner.candidates(found, io="separate", share=frozenset(), cost=price)
    plan = planner.chosen(found, offers, share=frozenset(), cost=price, rows=rows)
    made = Plan("tuned", found, lower(found, plan), "cpu", tuple(rows))
    out = str(folder / "merged.onnx")
    about = made.metadata(io="separate", share=frozenset(), partial=False, dims={})
    with writer.stage(made.merged, out, found.sources, metadata=about) as staged:
        staged.commit()
    return out


@pytest.mark.parametrize(("text", "weights"), [(WIDE, WIDE_WEIGHTS), (LOOP, {"w": (4, 4)})])
def test_every_plan_on_offer_is_repeated(
    tmp_path: Path, text: str, weights: dict[str, tuple[int, ...]]
) -> None:
    paths = family(tmp_path, text, weights)
    every = plans(matched(paths))
    assert len(every) > 1
    for rows in every[:: max(1, len(every) // 6)]:
        file = written(tmp_path, paths, rows)
        about = metadata.read(file)
        assert about.recorded and [(r.became, r.rule) for r in about.lowered.nodes] == [
            (row.became, row.rule) for row in rows
        ]
        report = netfuse_onnx.verify(file, paths, provider="cpu")
        assert report.ok and report.graph.made, report.graph


def test_the_file_holds_no_times(tmp_path: Path) -> None:
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS)
    about = metadata.read(written(tmp_path, paths, plans(matched(paths))[0]))
    assert not about.lowered.predicted and not about.lowered.alternatives
    assert not any(row.cost for row in about.lowered.nodes)


def changed(file: str, change: Change) -> None:
    def rewrite(proto: ModelProto) -> None:
        (entry,) = (p for p in proto.metadata_props if p.key == "netfuse_onnx")
        value = json.loads(entry.value)
        change(value)
        entry.value = json.dumps(value)

    tampered(file, rewrite)


def set_row(**entries: object) -> Change:
    return lambda value: value["nodes"][0].update(entries)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_row(rule="no_such_rule"), "which no rule offers"),
        (set_row(became="shared"), "which no rule offers"),
        (set_row(takes=["STACKED(0)"]), "which no rule offers"),
        (set_row(gives=["FOLDED(9)"]), "which no rule offers"),
        (lambda value: value["nodes"].pop(), "they have no row for node"),
        (
            lambda value: value["nodes"].append(value["nodes"][0]),
            "they have 1 rows more than there are nodes",
        ),
        (lambda value: value["nodes"].clear(), "they have no row for node"),
    ],
)
def test_rows_that_are_not_on_offer_fail_the_proof(
    tmp_path: Path, run: Run, change: Change, says: str
) -> None:
    paths = family(tmp_path)
    file = written(tmp_path, paths, plans(matched(paths))[0])
    changed(file, change)
    code, _, said = run("verify", file, *paths, "--provider", "cpu")
    assert code == 1 and says in said and "Traceback" not in said


def test_rows_of_another_plan_fail_the_proof(tmp_path: Path) -> None:
    """Each row is on offer, but the graph in the file is that of another plan."""
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS)
    every = plans(matched(paths))
    file = written(tmp_path, paths, every[0])
    other = next(rows for rows in every if rows[0].became != every[0][0].became)
    names = ("became", "rule", "takes", "gives")

    def change(value: dict[str, list[Row]]) -> None:
        for row, choice in zip(value["nodes"], other, strict=True):
            row.update({name: getattr(choice, name) for name in names})

    changed(file, change)
    report = netfuse_onnx.verify(file, paths, provider="cpu")
    assert not report.graph.ok and not report.ok


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("recorded", 1, "'recorded' is not true or false"),
        ("measured", [{"n": -1}], "'measured' '0' 'n' is not a whole number"),
        ("measured", {"n": 1}, "'measured' is not a list"),
        ("dims", {"n": []}, "1 to 16 combinations"),
        ("dims", {"n": [1, "2"]}, "'dims' 'n' '1' is not a whole number"),
        ("dims", {"n": list(range(17))}, "1 to 16 combinations"),
        ("dims", {name: [1, 2] for name in "abcde"}, "1 to 16 combinations"),
        ("sizes", [{"dims": {"n": 1}}], "'sizes' '0' has no 'microseconds'"),
    ],
)
def test_metadata_that_nobody_wrote(tmp_path: Path, run: Run, key: str, value: object, says: str) -> None:
    paths = family(tmp_path)
    file = written(tmp_path, paths, plans(matched(paths))[0])
    changed(file, lambda whole: whole.__setitem__(key, value))  # type: ignore[arg-type, func-returns-value]
    code, _, said = run("verify", file, *paths)
    assert code == 3 and says in said


def test_a_lowering_with_bodies_needs_their_rows(tmp_path: Path) -> None:
    paths = family(tmp_path, LOOP, {"w": (4, 4)})
    found, price = matched(paths), cost("cpu", matched(paths), {})
    offers = planner.candidates(found, io="separate", share=frozenset({"t", "c"}), cost=price)
    rows = [*recorded.choices(planner.chosen(found, offers, share=frozenset(), cost=price).lowerings)]
    assert len(rows) > len(found.graph.nodes)
    assert [len(some) for some in recorded.restricted(offers, rows).options] == [1] * len(found.graph.nodes)
    for wrong in (rows[:-1], [*rows[:-1], Choice("shared")]):
        with pytest.raises(recorded.NotOnOffer, match="other rows for the bodies"):
            recorded.restricted(offers, wrong)


# --------------------------------------------------------------------------- several sizes


def test_points_are_all_combinations() -> None:
    assert points({}) == [{}]
    assert points({"a": 3, "b": (1, 2)}) == [{"a": 3, "b": 1}, {"a": 3, "b": 2}]


@pytest.mark.parametrize("sizes", [(1, 64), (1, 8, 512), (4, 4000)])
def test_no_plan_has_a_smaller_sum_of_relative_times(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    paths = family(
        tmp_path, "g (float[n, 64] x) => (float[n, 16] y) { h = MatMul(x, w1) y = Relu(h) }", {"w1": (64, 16)}
    )
    found = matched(paths)
    each = [cost("cpu", found, {"n": size}) for size in sizes]
    several = cost("cpu", found, {"n": sizes})
    assert isinstance(several, Several)
    offers = planner.candidates(found, io="separate", share=frozenset(), cost=several)
    plan = planner.chosen(found, offers, share=frozenset(), cost=several)

    def total(rows: list[Choice]) -> float:
        return sum(
            planner.price(found, offers, rows, one) / best for one, best in zip(each, bests, strict=True)
        )

    bests = [planner.chosen(found, offers, share=frozenset(), cost=one).cost for one in each]
    least = min(total(rows) for rows in plans(found))
    assert total([*recorded.choices(plan.lowerings)]) == pytest.approx(least)
    assert plan.prediction is not None
    rows = plan.prediction.sizes
    assert [dict(row.dims) for row in rows] == [{"n": size} for size in sizes]
    assert [row.best for row in rows] == pytest.approx(bests, abs=0.01)


def test_a_large_size_counts_no_more_than_a_small_one(tmp_path: Path) -> None:
    found = matched(family(tmp_path))
    several = cost("cpu", found, {"n": (1, 1000)})
    assert isinstance(several, Several)
    offers = planner.candidates(found, io="separate", share=frozenset(), cost=several)
    several.priced(found)
    several.weigh([1.0, 3.0])  # their mean is 2
    site, offer = offers.sites[0], offers.options[0][0]
    small, large = (
        one.lowering(offer, at) for one, at in zip(several.costs, several._sized(site), strict=True)
    )
    assert large > small
    assert several.lowering(offer, site) == pytest.approx(small * 2.0 / 1.0 / 2 + large * 2.0 / 3.0 / 2)


def test_each_size_is_planned_for_proven_and_remembered(tmp_path: Path) -> None:
    paths, out = family(tmp_path), str(tmp_path / "merged.onnx")
    report = netfuse_onnx.merge(paths, out, target="cpu", dims={"n": (1, 3, 5)}, provider="cpu")
    assert report.proof is not None
    cases = report.proof.values.cases
    assert {"n=1", "n=3", "n=5"} <= set(cases)
    assert [dict(row.dims) for row in report.lowered.sizes] == [{"n": 1}, {"n": 3}, {"n": 5}]
    assert metadata.read(out).dims == {"n": (1, 3, 5)}
    again = netfuse_onnx.verify(out, paths, provider="cpu")
    assert again.ok and again.graph.made and {"n=1", "n=3", "n=5"} <= set(again.values.cases)
    one = netfuse_onnx.verify(out, paths, provider="cpu", dims={"n": 2})
    assert one.ok and not {"n=1", "n=3"} & set(one.values.cases)


def test_one_size_is_kept_as_before(tmp_path: Path) -> None:
    paths, out = family(tmp_path), str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, out, target="cpu", dims={"n": 3}, verify=False)
    assert metadata.read(out).dims == {"n": 3}


@pytest.mark.usefixtures("one_setting")
def test_bench_measures_the_first_size_and_says_so(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), str(tmp_path / "merged.onnx")
    netfuse_onnx.merge(paths, out, target="cpu", dims={"n": (3, 5)}, verify=False)
    report = netfuse_onnx.bench(out, paths, provider="cpu", rounds=1, seconds=0)
    assert report.case == "n=3"
    assert any("planned for n=3; n=5" in warning for warning in report.warnings)
    refused(run("bench", out, *paths, "--dim", "n=3,5"), 2, "bench takes one size of 'n'")


@pytest.mark.parametrize("text", ["n=1,", "n=,1", "n=1,a", "n=1,-2", "n="])
def test_sizes_that_are_none(tmp_path: Path, run: Run, text: str) -> None:
    paths = family(tmp_path)
    refused(run("merge", *paths, "-o", tmp_path / "m.onnx", "--dim", text), 2, "no dimension")


def test_too_many_sizes(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    many = "n=" + ",".join(map(str, range(17)))
    refused(
        run("merge", *paths, "-o", tmp_path / "m.onnx", "--no-verify", "--dim", many), 2, "17 combinations"
    )


def test_equal_sizes_are_one() -> None:
    assert arguments.dimensions(["n=4,4", "m=1,2,1"]) == {"n": 4, "m": (1, 2)}
