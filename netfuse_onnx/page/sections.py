"""The sections of the page have more than the reports themselves: plots, tables of counts, and marks."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from netfuse_onnx import edges, spelling_rows
from netfuse_onnx.page import plots
from netfuse_onnx.page.graph import Drawing, ids
from netfuse_onnx.page.material import Material
from netfuse_onnx.page.snippets import Port, Snippet, ports, snippets
from netfuse_onnx.proofs import Judged, OutputProof, describe
from netfuse_onnx.prove import afterwards
from netfuse_onnx.report import NOT_PROVEN, VerifyReport
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
    weights: Sequence[tuple[str, int, str]]
    warnings: Sequence[str]
    written: Sequence[str]
    snippets: Sequence[Snippet]


def sections(material: Material, drawn: Drawing) -> Sections:
    about, graph = material.about, material.model.graph
    stored = {tensor.name for tensor in graph.initializer}
    opsets = sorted((entry.domain or "ai.onnx", entry.version) for entry in material.model.opset_import)
    proof, spelling = material.proof, spelling_rows.read(about.spelling)
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
        weights=_largest(drawn),
        warnings=_warnings(material),
        written=list(spelling.sentences()) if spelling else (),
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
    left = [name for name, part in (("bytes", proof.bytes), ("graph", proof.graph)) if not part.made]
    if proof.ok and left:
        return Tile("Proven in part", f"not compared: {' and '.join(left)}", OPEN)
    if proof.ok:
        worst = proof.values.worst
        return Tile("Proven", f"worst output at {worst.ratio:.2g} of its tolerance" if worst else "", YES)
    if proof.exit_code == NOT_PROVEN:
        return Tile("Can't tell", proof.failure, OPEN)
    return Tile("Not equal", proof.failure, NO)


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


MOST_WEIGHTS = 12
"""The number of weights that the page lists."""


def _largest(drawn: Drawing) -> list[tuple[str, int, str]]:
    """Return the weights with the most bytes: name, bytes, type and shape. Two boxes may read one weight."""
    found = {(weight.value, weight.shape): weight for box in drawn.boxes for weight in box.weights}
    largest = sorted(found.values(), key=lambda weight: -weight.nbytes)[:MOST_WEIGHTS]
    return [(one.value, one.nbytes, f"{one.dtype} [{', '.join(map(str, one.shape))}]") for one in largest]


def _warnings(material: Material) -> list[str]:
    """Return the warnings of all reports, each once: a merge repeats those of its proof."""
    changed = afterwards.since_merge(material.path, material.about)
    found = [changed.sentence] if changed else []
    for report in (material.merge, material.proof):
        found += report.warnings if report else ()
    return list(dict.fromkeys(found))


# --------------------------------------------------------------------------- proofs


def _proofs(report: VerifyReport) -> list[Proof]:
    """Return a line for each proof that was made, and for those that were not."""
    values = report.values
    found = [_bytes(report), _graph(report), _values(report)]
    if low_rank := report.reconstruction:
        error = f"largest error {low_rank.error:.2g} of what is allowed"
        found.append(
            _judged("Low rank", low_rank, f"W0 + L R of {_count(len(low_rank.weights), 'weight')}; {error}")
        )
    if isolation := values.isolation:
        calls = _count(isolation.calls, "call")
        fed = f"NaN and infinities went into {_count(isolation.models, 'model')} in {calls}"
        refused = f"{_count(isolation.refused, 'call')} of unequal sizes failed, as they must"
        found.append(_judged("Isolation", isolation, f"{fed}, without effect on others; {refused}"))
    if selection := values.selection:
        refused = f"{selection.refused} with an id of no model failed, as they must"
        found.append(
            _judged("Selection", selection, f"{_count(selection.calls, 'call')} of some models; {refused}")
        )
    if mixes := values.mixes:
        refused = f"{mixes.refused} that name no model failed, as they must"
        calls = f"{_count(mixes.rows, 'row')} in {_count(mixes.calls, 'call')} of other mixes"
        found.append(_judged("Rows", mixes, f"{calls}; {refused}"))
    if views := report.views:
        said = (
            f"{_count(views.outputs, 'output')} of {_count(views.views, 'view')} equal those of their sources"
        )
        found.append(_judged("Views", views, said))
    if kept := report.kept:
        outputs, models = _count(kept.outputs, "output"), _count(kept.models, "model")
        said = f"{outputs} of {models} that stayed are equal, {kept.exact} of them bit for bit"
        found.append(_judged("Before and after", kept, said))
    if (spread := values.spread) and spread.telling:
        two = f"the two models most alike, {' and '.join(spread.models)}, differ by {spread.ratio:.3g} times"
        found.append(Proof("Telling apart", YES, f"{two} the tolerance: an exchange would show"))
    return found


def _judged(name: str, part: Judged, said: str) -> Proof:
    return Proof(name, YES if part.ok else NO, said, part.problems)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _values(report: VerifyReport) -> Proof:
    values = report.values
    wrong = [row for row in values.outputs if not row.ok]
    outputs, cases = _count(len(values.outputs), "output"), _count(len(values.cases), "case")
    said = f"{outputs} of {_count(len(report.models), 'model')} on {values.provider.upper()}, in {cases}"
    mark = YES if values.ok else OPEN if values.unproven else NO
    return Proof("Values", mark, said, (*values.problems, *map(describe, wrong)))


def _bytes(report: VerifyReport) -> Proof:
    part = report.bytes
    if not part.made:
        return Proof("Bytes", NONE, part.note)
    compared = [f"{_count(part.weights, 'weight')} ({size(part.bytes)})"] if part.weights else []
    if part.attributes:
        compared.append(f"{_count(part.attributes, 'attribute')} ({size(part.attribute_bytes)})")
    said = (
        f"{' and '.join(compared)} equal the sources', bit for bit" if compared else "no weights to compare"
    )
    if part.elsewhere:
        said += f"; {part.elsewhere} more are computed into constants, proven by values"
    return _judged("Bytes", part, said)


def _graph(report: VerifyReport) -> Proof:
    part = report.graph
    if not part.made:
        return Proof("Graph", NONE, part.note)
    return _judged("Graph", part, f"{_count(part.nodes, 'node')} are what merging these sources gives")
