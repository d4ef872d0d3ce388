"""What the sections of the page show beyond the reports themselves: plots, tables of counts, and marks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx import edges
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.measure.report import BenchReport
from netfuse_onnx.page.graph import Drawing, ids
from netfuse_onnx.page.material import Material
from netfuse_onnx.page.snippets import Port, Snippet, ports, snippets
from netfuse_onnx.proofs import OutputProof, describe
from netfuse_onnx.report import VerifyReport
from netfuse_onnx.units import duration, size

YES, NO, OPEN, NONE = "yes", "no", "open", "none"
"""The marks of a proof: it holds, it does not, it can't tell, it was not made."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One figure of the head of the page, with the words below it."""

    figure: str
    said: str
    mark: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """One proof: its mark, and a sentence."""

    name: str
    mark: str
    said: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sections:
    """All that the template asks for by `s`."""

    file: str
    tiles: Sequence[Tile]
    inputs: Sequence[Port]
    outputs: Sequence[Port]
    ids: str
    io: str
    opsets: str
    reasons: Sequence[tuple[str, int, str]]
    plans: str
    parts: str
    tuned: Sequence[tuple[str, str]]
    proofs: Sequence[Proof]
    rows: Sequence[OutputProof]
    bench: str
    waiting: str
    modules: Sequence[tuple[str, int, str]]
    snippets: Sequence[Snippet]


def sections(material: Material, drawn: Drawing) -> Sections:
    try:
        from netfuse_onnx.page import plots
    except ImportError as error:
        raise UsageFault(
            "Jinja2, which writes the page, is not installed.", "pip install 'netfuse-onnx[report]'"
        ) from error
    about, graph = material.about, material.model.graph
    stored = {tensor.name for tensor in graph.initializer}
    opsets = sorted((entry.domain or "ai.onnx", entry.version) for entry in material.model.opset_import)
    proof = material.proof
    return Sections(
        file=os.path.basename(material.path),
        tiles=list(_tiles(material)),
        inputs=[port for port in ports(graph.input) if port.name not in stored],
        outputs=ports(graph.output),
        ids=ids(graph, about),
        io=edges.options(about.io),
        opsets=", ".join(f"{domain} {version}" for domain, version in opsets),
        reasons=_reasons(material),
        plans=plots.plans(material),
        parts=plots.parts(about.lowered),
        tuned=plots.tuned(material.merge.tuning) if material.merge and material.merge.tuning else (),
        proofs=list(_proofs(proof)) if proof else (),
        rows=sorted(proof.values.outputs, key=lambda row: -row.ratio) if proof else (),
        bench=plots.bench(material.bench) if material.bench else "",
        waiting=plots.waiting(material.bench) if material.bench else "",
        modules=_modules(drawn),
        snippets=snippets(material),
    )


# --------------------------------------------------------------------------- head


def _tiles(material: Material) -> Sequence[Tile]:
    about, lowered = material.about, material.about.lowered
    tiles = [
        Tile(str(len(about.models)), "models in one graph"),
        Tile(_nodes(lowered.source_nodes, lowered.merged_nodes), "nodes of a source, and merged"),
        Tile(size(material.size), "on disk, weights included"),
    ]
    if lowered.predicted:
        total, once = sum(lowered.predicted.values()), lowered.alternatives.get("once per model")
        beside = f", {duration(once * 1e-6)} once per model" if once else ""
        tiles.append(Tile(duration(total * 1e-6), f"a call, predicted{beside}"))
    if material.bench and material.bench.speedups:
        best = material.bench.speedups[0]
        tiles.append(Tile(f"{best.times.median:.2f} ×", f"the speed of {best.best}, measured"))
    tiles.append(_verdict(material.proof))
    return tiles


def _nodes(source: int, merged: int) -> str:
    return f"{source:,} → {merged:,}"


def _verdict(proof: VerifyReport | None) -> Tile:
    if proof is None:
        return Tile("Not proven here", "give --verify, or the sources", OPEN)
    if proof.ok:
        worst = proof.values.worst
        return Tile("Proven", f"worst output at {worst.ratio:.2g} of its tolerance" if worst else "", YES)
    return Tile("Can't tell" if proof.exit_code == 5 else "Not equal", proof.failure, OPEN if proof.exit_code == 5 else NO)


# --------------------------------------------------------------------------- tables


def _reasons(material: Material) -> list[tuple[str, int, str]]:
    """Return the reasons why nodes are replicated, with their number and operators."""
    found: dict[str, Counter[str]] = {}
    for row in material.about.lowered.replicated:
        found.setdefault(row.reason, Counter())[row.op] += 1
    return [
        (reason, ops.total(), ", ".join(f"{count} × {op}" for op, count in ops.most_common()))
        for reason, ops in sorted(found.items(), key=lambda item: -item[1].total())
    ]


MOST_MODULES = 12


def _modules(drawn: Drawing) -> list[tuple[str, int, str]]:
    """Return the weights with the most bytes: name, bytes, type and shape. Two boxes may read one weight."""
    found = {(weight.value, weight.shape): weight for box in drawn.boxes for weight in box.weights}
    largest = sorted(found.values(), key=lambda weight: -weight.nbytes)[:MOST_MODULES]
    return [(one.value, one.nbytes, f"{one.dtype} [{', '.join(map(str, one.shape))}]") for one in largest]


# --------------------------------------------------------------------------- proofs


def _proofs(report: VerifyReport) -> Sequence[Proof]:
    """Return a line for each proof that was made, and for those that were not."""
    values, models = report.values, len(report.models)
    wrong = [row for row in values.outputs if not row.ok]
    said = f"{len(values.outputs)} outputs of {models} models on {values.provider.upper()}, in {len(values.cases)} cases"
    problems = (*values.problems, *map(describe, wrong))
    mark = YES if values.ok else OPEN if values.unproven else NO
    found = [_bytes(report), _graph(report), Proof("Values", mark, said, problems)]
    if part := report.reconstruction:
        said = f"W0 + L R of {len(part.weights)} weights; largest error {part.error:.2g} of what is allowed"
        found.append(Proof("Low rank", YES if part.ok else NO, said, part.problems))
    if isolation := values.isolation:
        said = f"{isolation.models} models were fed NaN and infinities in {isolation.calls} calls, without effect on others; {isolation.refused} calls of unequal sizes failed, as they must"
        found.append(Proof("Isolation", YES if isolation.ok else NO, said, isolation.problems))
    if selection := values.selection:
        said = f"{selection.calls} calls of some models; {selection.refused} with an id of no model failed, as they must"
        found.append(Proof("Selection", YES if selection.ok else NO, said, selection.problems))
    if mixes := values.mixes:
        said = f"{mixes.rows} rows in {mixes.calls} calls of other mixes; {mixes.refused} that name no model failed, as they must"
        found.append(Proof("Rows", YES if mixes.ok else NO, said, mixes.problems))
    if views := report.views:
        said = f"{views.outputs} outputs of {views.views} views equal those of their sources"
        found.append(Proof("Views", YES if views.ok else NO, said, views.problems))
    if (spread := values.spread) and spread.telling:
        said = f"the two models most alike, {' and '.join(spread.models)}, differ by {spread.ratio:.3g} times the tolerance: an exchange would show"
        found.append(Proof("Telling apart", YES, said))
    return found


def _bytes(report: VerifyReport) -> Proof:
    part = report.bytes
    said = f"{part.weights} weights ({size(part.bytes)}) and {part.attributes} attributes equal the sources' bit for bit"
    if part.elsewhere:
        said += f"; {part.elsewhere} more are computed into constants and proven by values"
    return Proof("Bytes", YES if part.ok else NO, said, part.problems)


def _graph(report: VerifyReport) -> Proof:
    part = report.graph
    if not part.made:
        return Proof("Graph", NONE, part.note)
    said = f"{part.nodes} nodes are what merging these sources gives"
    return Proof("Graph", YES if part.ok else NO, said, part.problems)


__all__ = ["BenchReport", "Sections", "sections"]
