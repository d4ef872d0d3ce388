"""update, add and remove: a changed file is, byte for byte, a fresh merge of what should be in it."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import onnx
import pytest
from changed_families import ARCHITECTURES, files, pool
from families import WIDE, WIDE_WEIGHTS, family
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from test_recorded import matched, plans, written

import netfuse_onnx
from netfuse_onnx import NotStackable

IO = ("separate", "stacked", "selected", "slots")


@st.composite
def settings_of_merges(draw: st.DrawFn) -> dict[str, object]:
    options: dict[str, object] = {
        "io": draw(st.sampled_from(IO)),
        "target": draw(st.sampled_from(["generic", "generic", "cpu"])),
        "data": draw(st.sampled_from(["auto", "external"])),
    }
    if options["target"] == "cpu":
        options["dims"] = draw(st.sampled_from([{}, {"n": 3}, {"n": (1, 4)}]))
    if options["io"] in ("separate", "stacked"):
        options["combine"] = draw(st.sampled_from(["", "", "mean", {"y": "sum"}]))
        options["partial"] = draw(st.sampled_from([False, False, True]))
    return options


@settings(
    max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate],
    derandomize=True,
)  # fmt: skip
@given(data=st.data())
def test_any_sequence_of_changes_is_a_fresh_merge(data: st.DataObject) -> None:
    draw = data.draw
    with tempfile.TemporaryDirectory() as name:
        folder, count = Path(name), itertools.count()
        sharing = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2]), min_size=1, max_size=6))
        merge = draw(settings_of_merges())
        architecture = draw(st.sampled_from(sorted(ARCHITECTURES)))
        if merge["io"] in ("separate", "stacked") and draw(st.booleans()):
            merge["share"] = ("ids" if architecture == "table" else "x",)
        models = pool(folder, architecture, 6, sharing, draw(st.booleans()), **merge)
        held = draw(st.permutations("abcdef"))[: draw(st.integers(2, 4))]
        names = {name: name for name in held}  # of the merged file -> the file that each was made of
        try:
            merged = models.fresh(held, folder / "changed")
        except NotStackable:
            assume(False)
        for _ in range(draw(st.integers(1, 3))):
            what = draw(st.sampled_from(["update", "add", "remove"][: 2 + (len(names) > 2)]))
            free = [name for name in "abcdef" if name not in names]
            if what == "update":
                chosen = draw(st.sampled_from(sorted(names)))
                names[chosen] = draw(st.sampled_from("abcdef"))
                netfuse_onnx.update(str(merged), {chosen: models.paths[names[chosen]]}, verify=False)
            elif what == "add" and free:
                chosen = draw(st.sampled_from(free))
                netfuse_onnx.add(str(merged), [models.paths[chosen]], names=[chosen], verify=False)
                names[chosen] = chosen
            elif what == "remove":
                chosen = draw(st.sampled_from(sorted(names)))
                netfuse_onnx.remove(str(merged), [chosen], verify=False)
                del names[chosen]
            fresh = folder / f"fresh-{next(count)}"
            fresh.mkdir()
            netfuse_onnx.merge(
                [models.paths[file] for file in names.values()], str(fresh / "merged.onnx"), names=list(names),
                verify=False, **merge,  # type: ignore[arg-type]
            )  # fmt: skip
            assert files(merged) == files(fresh / "merged.onnx")
        netfuse_onnx.split(str(merged), str(folder / "split"))
        for name, file in names.items():
            assert (folder / "split" / f"{name}.onnx").read_bytes() == Path(models.paths[file]).read_bytes()


@pytest.mark.parametrize("place", [1, -1])
def test_a_plan_that_was_measured_stays(tmp_path: Path, place: int) -> None:
    """It is no plan of a fresh merge, which would measure again: the report says so."""
    paths = family(tmp_path, WIDE, WIDE_WEIGHTS, count=3)
    merged = written(tmp_path, paths[:2], plans(matched(paths[:2]))[place])
    before = netfuse_onnx.inspect(merged)
    updated = netfuse_onnx.update(merged, {"b": paths[2]})
    assert updated.changes is not None
    assert "the one that measuring chose" in updated.changes.notes[0]
    after = netfuse_onnx.inspect(merged)
    assert before.recorded
    assert after.recorded
    assert after.lowered.nodes == before.lowered.nodes
    assert netfuse_onnx.verify(merged, [paths[0], paths[2]]).ok
    added = netfuse_onnx.add(merged, [paths[1]], names=["d"])
    assert added.changes is not None
    assert "by measuring 2 models, and stays for 3" in added.changes.notes[0]
    assert netfuse_onnx.verify(merged, [paths[0], paths[2], paths[1]]).ok


def test_models_with_data_files_of_their_own(tmp_path: Path) -> None:
    """Sources that keep their weights beside them, one of them under another name."""
    models = pool(tmp_path, "wide", 4, [0], False, data="external")
    for name, path in models.paths.items():
        proto = onnx.load(path)
        onnx.save(proto, path, save_as_external_data=True, location=f"{name}.weights", size_threshold=0)
    merged = models.fresh("abc", tmp_path / "changed")
    netfuse_onnx.remove(str(merged), ["a"])
    netfuse_onnx.add(str(merged), [models.paths["d"]], names=["d"])
    assert files(merged) == files(models.fresh("bcd", tmp_path / "fresh"))
