"""The page of a merged file: its facts, its graph, its proofs; names are harmless, and reports of other files are
refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from commands import Run, refused
from families import MLP_TEXT, family, merged, model, save, tampered
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from page_files import HOSTILE, IF, KINDS, chain, named, nodes_of, page, scene, shown, snippet

import netfuse_onnx
from netfuse_onnx.page import layout, plot
from netfuse_onnx.units import duration, size

# --------------------------------------------------------------------------- the graph


@pytest.mark.parametrize("kind", KINDS)
def test_each_node_of_the_merged_graph_is_in_one_box(tmp_path: Path, kind: str) -> None:
    path = merged(tmp_path, family(tmp_path, count=3), **KINDS[kind])
    found = scene(page(path))
    made = sum(count for node in found["nodes"] for _, count in node.get("made", ()))
    assert made == nodes_of(path)
    about = netfuse_onnx.inspect(path)
    kinds = [found["kinds"][node["k"]] for node in found["nodes"]]
    assert "added" not in kinds
    for word in ("batched", "grouped", "shared", "replicated"):
        assert kinds.count(word) == sum(row.became == word for row in about.lowered.nodes)
    ends = {name for node in found["nodes"] for name in node.get("names", ())}
    graph = onnx.load(path).graph
    stored = {tensor.name for tensor in graph.initializer}
    assert ends == {info.name for info in (*graph.input, *graph.output)} - stored


def test_arrows_are_the_values_of_the_graph(tmp_path: Path) -> None:
    found = scene(page(merged(tmp_path, family(tmp_path), io="stacked")))
    names = [(found["kinds"][node["k"]], node["o"]) for node in found["nodes"]]
    arrows = [
        (names[start], names[end], found["layouts"][layout]) for start, end, layout, *_ in found["edges"]
    ]
    assert arrows == [
        (("input", "input"), ("batched", "MatMul"), "STACKED(0)"),
        (("batched", "MatMul"), ("batched", "Add"), "STACKED(0)"),
        (("batched", "Add"), ("batched", "Relu"), "STACKED(0)"),
        (("batched", "Relu"), ("batched", "MatMul"), "STACKED(0)"),
        (("batched", "MatMul"), ("output", "output"), "STACKED(0)"),
    ]


def test_a_box_has_its_layouts_weights_cost_and_reason(tmp_path: Path) -> None:
    path = merged(tmp_path, family(tmp_path), target="cpu", dims={"n": 64})
    about = netfuse_onnx.inspect(path)
    nodes = {node["n"]: node for node in scene(page(path))["nodes"]}
    for row in about.lowered.nodes:
        node = nodes[row.name]
        assert (node.get("cost", ""), node.get("why", ""), node.get("rule", "")) == (
            row.cost,
            row.reason,
            row.rule,
        )
        assert (node["takes"], node["gives"]) == (list(row.takes), list(row.gives))
    assert any("us" in node.get("cost", "") for node in nodes.values())
    weights = [weight for node in nodes.values() for weight in node.get("weights", ())]
    assert {weight[0] for weight in weights} == {"w1", "b1", "w2"}
    assert sum(4 * np.prod([int(part) for part in w[2].split(" × ")]) * w[4] for w in weights) == 2 * 4 * 208


def test_conversions_are_boxes_of_their_own(tmp_path: Path) -> None:
    path = merged(tmp_path, family(tmp_path))
    found = scene(page(path))
    told = {(row.value, row.after) for row in netfuse_onnx.inspect(path).lowered.conversions}
    drawn = {(n["n"], n["to"]) for n in found["nodes"] if found["kinds"][n["k"]] == "conversion"}
    assert drawn == told
    assert len(drawn) == 2


def test_bodies_are_told_in_the_box_of_their_operator(tmp_path: Path) -> None:
    paths = family(tmp_path, IF, {"w": (8, 8), "w2": (8,)})
    path = merged(tmp_path, paths)
    found = scene(page(path))
    rows = netfuse_onnx.inspect(path).lowered.nodes
    inside = [row for node in found["nodes"] for row in node.get("in", ())]
    drawn = [node for node in found["nodes"] if node.get("rule") or node.get("why")]
    assert sum(node["o"] == "If" for node in found["nodes"]) == 1
    assert len(inside) + len(drawn) <= len(rows)
    assert "added" not in [found["kinds"][node["k"]] for node in found["nodes"]]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.lists(st.tuples(st.integers(0, 59), st.integers(0, 59)), max_size=120))
def test_boxes_do_not_touch_and_lines_end_where_they_should(count: int, pairs: list[tuple[int, int]]) -> None:
    arrows = sorted({(a, b) for a, b in pairs if a != b and a < count and b < count})
    at = layout.places(count, arrows)
    assert sorted(box for column in at.columns for box in column.boxes) == list(range(count))
    for one in range(count):
        for two in range(one):
            (x1, y1), (x2, y2) = at.middles[one], at.middles[two]
            assert abs(x1 - x2) >= layout.WIDTH - 1 or abs(y1 - y2) >= layout.HEIGHT - 1, (one, two)
        x, y = at.middles[one]
        assert layout.WIDTH / 2 <= x <= at.width - layout.WIDTH / 2 + 1
        assert layout.HEIGHT / 2 <= y <= at.height - layout.HEIGHT / 2 + 1
    where = {box: number for number, column in enumerate(at.columns) for box in column.boxes}
    for start, end in at.bends:
        assert (start, end) in arrows
        assert where[end] - where[start] in (0, 1)
        if where[start] == where[end]:
            assert at.middles[start][1] < at.middles[end][1]


# --------------------------------------------------------------------------- facts


def test_the_page_has_the_family(tmp_path: Path) -> None:
    paths = family(tmp_path, count=3)
    path = merged(tmp_path, paths, names=["red", "green", "blue"])
    text = shown(page(path, paths=paths))
    for name, source in zip(("red", "green", "blue"), paths, strict=True):
        assert hashlib.sha256(Path(source).read_bytes()).hexdigest() in text
        assert f"{name}/x" in text
        assert size(os.path.getsize(source)) in text
    assert "3 models in one graph" in re.sub(r"\s+", " ", text)
    assert "Proven" in text


def test_the_page_has_the_plan_that_won_and_those_that_lost(tmp_path: Path) -> None:
    path = merged(tmp_path, family(tmp_path), target="cpu", dims={"n": 64})
    lowered = netfuse_onnx.inspect(path).lowered
    text = page(path)
    assert duration(sum(lowered.predicted.values()) * 1e-6) in shown(text)
    for name, cost in lowered.alternatives.items():
        assert name in text
        assert duration(cost * 1e-6) in shown(text)
    none = shown(page(merged(tmp_path, family(tmp_path))))
    assert "merged for no target" in none


def test_bars_are_as_long_as_their_values() -> None:
    rows = [plot.Bar("a", 1.0), plot.Bar("b", 3.0, 2.0, 4.0), plot.Bar("<b>", 2.0)]
    text = str(plot.bars(rows, str, "<title>"))
    widths = [
        float(width) for width in re.findall(r'class="bar [^"]*" x="[^"]*" y="[^"]*" width="([\d.]+)"', text)
    ]
    assert widths[1] == pytest.approx(3 * widths[0], rel=0.01)
    assert widths[2] == pytest.approx(2 * widths[0], rel=0.01)
    assert "<b>" not in text
    assert "<title>" not in text.replace("<title>&lt;", "")


def test_a_proof_that_fails_is_shown(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    path = merged(tmp_path, paths)

    def change(proto: onnx.ModelProto) -> None:
        first = proto.graph.initializer[0]
        values = numpy_helper.to_array(first).copy()
        values.flat[0] += 1
        first.CopyFrom(numpy_helper.from_array(values, first.name))

    tampered(path, change)
    code, _, err = run("report", path, *paths, "-o", tmp_path / "p.html")
    assert code == 1
    text = shown((tmp_path / "p.html").read_text())
    assert "Not equal" in text
    assert "does not hold" in text
    assert "error:" in err


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cpu"])
def test_the_snippets_run(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = family(tmp_path, count=3)
    path = merged(tmp_path, paths, **KINDS[kind])
    text = page(path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(snippet(text, "ONNX Runtime"), names)
    outputs = names["outputs"]
    assert isinstance(outputs, dict)
    assert {info.name for info in onnx.load(path).graph.output} == outputs.keys()
    if kind == "combined":
        return
    rows = np.random.default_rng(1).standard_normal((1, 8)).astype(np.float32)
    ran: dict[str, object] = {"x": rows}
    code = snippet(text, "Python: MergedSession").replace("merged.onnx'", "merged.onnx', calibrate=0.01")
    exec(code, ran)
    import onnxruntime as ort

    (want,) = ort.InferenceSession(paths[0]).run(None, {"x": rows})
    given_ = ran["outputs"]
    assert isinstance(given_, dict)
    np.testing.assert_allclose(given_["y"], want, rtol=1e-4, atol=1e-5)


def test_partial_and_low_rank_files_have_pages(tmp_path: Path) -> None:
    text = "g (int64[b] x) => (float[p, q] y) { y = Gather(t, x) }"
    paths = [
        save(tmp_path / f"{name}.onnx", model(text, {"t": (rows, 4)}, rows))
        for name, rows in (("a", 30), ("b", 90))
    ]
    text = page(merged(tmp_path, paths, partial=True))
    assert "models may differ in the nodes that are replicated; 0.0 %" in shown(text)
    rng = np.random.default_rng(0)
    w = rng.standard_normal((64, 64)).astype(np.float32)
    for path in paths:
        proto = model("g (float[n, 64] x) => (float[n, 64] y) { y = MatMul(x, w) }")
        own = w + (rng.standard_normal((64, 1)) @ rng.standard_normal((1, 64))).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(own.astype(np.float32), "w"))
        save(Path(path), proto)
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(w, "w"))
    base = save(tmp_path / "base.onnx", proto)
    told = shown(page(merged(tmp_path, paths, low_rank=0.0, base=base)))
    assert "1 weights are W0 + L R" in told


# --------------------------------------------------------------------------- harmless names


def test_names_of_files_are_text_and_nothing_else(tmp_path: Path) -> None:
    paths = named(tmp_path, name=HOSTILE)
    models = ["a", "<img src=x onerror='alert(2)'>"]
    path = merged(tmp_path, paths, names=models, io="stacked")
    text = page(path, paths=paths)
    assert HOSTILE in {node["n"] for node in scene(text)["nodes"]}
    assert "<img" not in text
    assert "\u2028" not in text
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert "{{" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert models[1] in shown(text)


def test_the_policy_allows_the_pages_own_script_and_nothing_else(tmp_path: Path) -> None:
    text = page(merged(tmp_path, family(tmp_path)))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    style, script = re.findall(r"<style>(.*?)</style>|<script>(.*?)</script>", text, re.DOTALL)

    def digest(part: str) -> str:
        return base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()

    policy = policy.replace("&#39;", "'")
    assert policy == (
        f"default-src 'none'; style-src 'sha256-{digest(style[0])}'; script-src 'sha256-{digest(script[1])}'; "
        "base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"(src|href)=\"(?!#)", text)
    assert " style=" not in text
    assert not re.search(r" on\w+=", text)


def test_pages_are_the_same_every_time(tmp_path: Path) -> None:
    path = merged(tmp_path, chain(tmp_path, 12))
    assert page(path) == page(path)


def test_a_page_of_a_thousand_nodes_is_small(tmp_path: Path) -> None:
    path = merged(tmp_path, chain(tmp_path, 200))
    text = page(path)
    assert len(scene(text)["nodes"]) > 1000
    assert len(text) < 1_000_000


# --------------------------------------------------------------------------- reports of other files


def _json(run: Run, out: Path, *arguments: object) -> Path:
    _, text, _ = run(*arguments, "--json")
    out.write_text(text)
    return out


def test_reports_are_shown_where_they_are_about_the_file(tmp_path: Path, run: Run, one_setting: None) -> None:
    paths = family(tmp_path)
    path = tmp_path / "merged.onnx"
    done = _json(run, tmp_path / "merge.json", "merge", *paths, "-o", path)
    proof = _json(run, tmp_path / "proof.json", "verify", path, *paths)
    times = _json(run, tmp_path / "times.json", "bench", path, *paths, "--rounds", 3, "--seconds", 3)
    out = tmp_path / "report.html"
    for report in (done, proof):
        code, _, err = run("report", path, "-o", out, "--verify", report, "--bench", times)
        assert code == 0, err
        text = shown(out.read_text())
        assert "Proven" in text
        for row in json.loads(times.read_text())["rows"]:
            assert row["label"] in text
        for row in json.loads(proof.read_text())["values"]["outputs"]:
            assert f"{row['error']:.3g}" in text


def test_reports_about_another_file_are_refused(tmp_path: Path, run: Run) -> None:
    (tmp_path / "other").mkdir()
    paths, others = family(tmp_path), family(tmp_path / "other", count=3)
    path, out = tmp_path / "merged.onnx", tmp_path / "report.html"
    own = _json(run, tmp_path / "own.json", "merge", *paths, "-o", path)
    other = _json(run, tmp_path / "other.json", "merge", *others, "-o", tmp_path / "other" / "merged.onnx")
    refused(run("report", path, "-o", out, "--verify", other), 2, "is not about")
    value = json.loads(own.read_text())
    for text in (json.dumps({**value, "fingerprint": ""}), json.dumps({**value, "fingerprint": "0" * 64})):
        own.write_text(text)
        refused(run("report", path, "-o", out, "--verify", own), 2, "report of the merge")
    own.write_text("[]")
    refused(run("report", path, "-o", out, "--verify", own), 3, "no report")
    own.write_text(json.dumps({**value, "lowered": 3}))
    refused(run("report", path, "-o", out, "--verify", own), 3, "'lowered'")
    refused(run("report", path, "-o", out, "--bench", other), 3, "no BenchReport")
    assert not out.exists()


def test_a_report_of_the_file_before_it_was_changed_is_refused(tmp_path: Path, run: Run) -> None:
    paths, path = family(tmp_path), tmp_path / "merged.onnx"
    done = _json(run, tmp_path / "merge.json", "merge", *paths, "-o", path)
    tampered(str(path), lambda proto: setattr(proto.graph.node[0], "name", "another"))
    refused(run("report", path, "-o", tmp_path / "r.html", "--verify", done), 2, "is not about")


# --------------------------------------------------------------------------- files and arguments


def test_what_is_no_page_is_not_replaced(tmp_path: Path, run: Run) -> None:
    paths = family(tmp_path)
    path, out = merged(tmp_path, paths), tmp_path / "mine.html"
    out.write_text("mine")
    refused(run("report", path, "-o", out), 3, "no report of ours")
    assert out.read_text() == "mine"
    assert run("report", path, "-o", out, "--force")[0] == 0
    assert run("report", path, "-o", out)[0] == 0
    before = Path(path).read_bytes()
    refused(run("report", path, "-o", path, "--force"), 2, "would replace")
    refused(run("report", path, *paths, "-o", paths[0], "--force"), 2, "would replace")
    refused(run("report", path, "-o", tmp_path), 3, "is a folder")
    refused(run("report", path, "-o", tmp_path / "no" / "r.html"), 3, "no folder")
    refused(run("report", paths[0], "-o", out), 3, "not written by netfuse-onnx")
    assert Path(path).read_bytes() == before
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_the_data_of_the_file_is_not_replaced(tmp_path: Path, run: Run) -> None:
    path = merged(
        tmp_path, family(tmp_path, MLP_TEXT, {"w1": (8, 600), "b1": (600,), "w2": (600, 4)}), data="external"
    )
    (data,) = tmp_path.glob("*.data")
    before = data.read_bytes()
    refused(run("report", path, "-o", data, "--force"), 2, "would replace")
    assert data.read_bytes() == before


@pytest.mark.parametrize("library", ["jinja2", "fast_sugiyama"])
def test_a_missing_library_is_named(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    path = merged(tmp_path, family(tmp_path))
    monkeypatch.setitem(sys.modules, library, None)
    refused(run("report", path, "-o", tmp_path / "r.html"), 2, "netfuse-onnx[report]")


def test_merge_writes_the_page_of_what_it_wrote(tmp_path: Path, run: Run) -> None:
    paths, out, path = family(tmp_path), tmp_path / "r.html", tmp_path / "merged.onnx"
    code, _, err = run("merge", *paths, "-o", path, "--report", out)
    assert code == 0, err
    assert "r.html" in err
    text = shown(out.read_text())
    assert "Proven" in text
    assert "Against 2 sessions" in text
    out.write_text("mine")
    path.unlink()
    refused(run("merge", *paths, "-o", path, "--report", out), 3, "no report of ours")
    assert not path.exists()
    refused(run("merge", *paths, "-o", path, "--report", paths[0]), 2, "would replace")


def test_bundles_have_pages(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "r.html"
    assert run("merge", *paths, "-o", tmp_path / "bundle", "--views", "--report", out)[0] == 0
    assert "graphs of single models" in shown(out.read_text())
    assert run("report", tmp_path / "bundle", "-o", out)[0] == 0
    refused(run("report", tmp_path / "bundle", paths[0], "-o", out, "--verify", "x"), 2, "one of the two")


def test_a_proof_of_values_alone_is_not_called_a_proof_of_all(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path), tmp_path / "r.html"
    path = merged(tmp_path, paths)
    tampered(path, lambda proto: proto.graph.node.append(onnx.helper.make_node("Neg", ["a/y"], ["more"])))
    proof = _json(run, tmp_path / "p.json", "verify", path, *paths, "--values")
    assert run("report", path, "-o", out, "--verify", proof)[0] == 0
    text = shown(out.read_text())
    assert "Proven in part" in text
    assert "✓ Bytes" not in text
    assert "✓ Values" in text
    assert "was changed after it was merged" in text


def test_a_file_that_was_updated_has_its_page(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path, count=3), tmp_path / "r.html"
    path = merged(tmp_path, paths)
    fresh = save(tmp_path / "new.onnx", model(MLP_TEXT, {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}, 9))
    done = _json(run, tmp_path / "update.json", "update", path, "--model", "b", fresh)
    assert run("report", path, "-o", out, "--verify", done)[0] == 0
    text = re.sub(r"\s+", " ", shown(out.read_text()))
    assert "Updated b As before a, c" in text
    assert "✓ Before and after" in text


def test_files_of_two_exporters_are_told(tmp_path: Path) -> None:
    paths = family(tmp_path)
    tampered(paths[1], lambda proto: setattr(proto, "producer_name", "another tool"))
    text = shown(page(merged(tmp_path, paths)))
    assert "another tool" in text
    assert "Spelling" in text


def test_sources_may_come_by_name_in_any_order(tmp_path: Path, run: Run) -> None:
    paths, out = family(tmp_path, count=3), tmp_path / "r.html"
    path = merged(tmp_path, paths)
    code, _, err = run("report", path, *[f"{'abc'[i]}={paths[i]}" for i in (2, 0, 1)], "-o", out)
    assert code == 0, err
    text = shown(out.read_text())
    assert text.index(" a ") < text.index(" b ") < text.index(" c ")
    assert "Proven" in text
