"""Prints what the proofs of a merged file found."""

from __future__ import annotations

from netfuse_onnx.proofs import BytesProof, ValuesProof, describe
from netfuse_onnx.report import VerifyReport

from .render_bundle import proof as views
from .render_calls import calls
from .render_changes import kept
from .render_low_rank import reconstruction
from .screen import REASONS, Screen, size, some

OUTPUTS = 40
"""At most so many rows of outputs are printed; --json has them all."""


def proofs(report: VerifyReport, console: Screen) -> None:
    """Print the proofs of bytes, graph and values."""
    if report.bytes.note:
        console.say("Bytes and graph: not compared (--values).")
    elif report.bytes.ok:
        console.say(f"Bytes: {_compared(report.bytes, report.graph.made)}.")
    for problem in report.bytes.problems[:REASONS]:
        console.say(f"Bytes: {problem}")
    reconstruction(report.reconstruction, console)
    graph = report.graph
    if graph.ok and graph.made:
        console.say(f"Graph: {graph.nodes} nodes are what merging these sources gives.")
    for problem in graph.problems[:REASONS]:
        console.say(f"Graph: {problem}")
    values = report.values
    for problem in values.problems:
        console.say(f"Values: {problem}")
    if values.outputs:
        _values(values, len(report.models), console)
    if report.bytes.note:
        _errors(values, console)
    views(report.views, console)
    kept(report.kept, console)


def _errors(values: ValuesProof, console: Screen) -> None:
    """Print the largest error of every output, relative to its scale."""
    rows = [
        (
            row.model,
            row.output,
            f"{row.error:.3g}",
            f"{row.allowed:.3g}",
            _share(row.error, row.scale),
            row.precision,
        )
        for row in values.outputs[:OUTPUTS]
    ]
    console.table(("model", "output", "error", "allowed", "of its largest", "computed in"), rows)


def _share(error: float, scale: float) -> str:
    return f"{100 * error / scale:.2g} %" if scale else ""


def _compared(proof: BytesProof, graph: bool) -> str:
    """Say how much was compared bit for bit, and how much could not be."""
    others = "by values and by the graph" if graph else "by values"
    parts = [f"{proof.weights} weights ({size(proof.bytes)})"] if proof.weights else []
    if proof.attributes:
        parts.append(f"{proof.attributes} attributes ({size(proof.attribute_bytes)})")
    if not parts and proof.elsewhere:
        return f"all {proof.elsewhere} weights are computed from those of the sources; proven {others}"
    if not parts:
        return f"no weights to compare by bytes; proven {others}"
    rest = f"; {proof.elsewhere} more are computed into constants, proven {others}" if proof.elsewhere else ""
    return f"{' and '.join(parts)} equal the sources', bit for bit{rest}"


def _values(values: ValuesProof, models: int, console: Screen) -> None:
    wrong = [row for row in values.outputs if not row.ok]
    for row in wrong[:REASONS]:
        console.say(f"Values: {describe(row).rstrip('.')}{_noise(row.noise)}.")
    where = values.provider.upper()
    if values.placed:
        where += " (" + ", ".join(f"{n} nodes on {p}" for p, n in sorted(values.placed.items())) + ")"
    verdict = "equal the sources'" if not wrong else f"differ in {len(wrong)} outputs"
    console.say(
        f"Values: {len(values.outputs)} outputs of {models} models {verdict} on {where}; "
        f"cases: {'; '.join(values.cases)}."
    )
    if values.left_out:
        console.say(
            "Optimisations: as CUDA runs the file, without the fusions into operators on bytes, which ONNX "
            f"Runtime has on the CPU alone ({', '.join(values.left_out)})."
        )
    _worst(values, console)
    calls(values, models, console)
    _combined(values, console)
    if values.unreached:
        console.say(f"Not reached by any inputs that were tried: {some(values.unreached, 3)}.")
    if values.tf32 is not None:
        console.say(
            f"TF32, CUDA's default, changes the merged outputs by up to {values.tf32:.2g} of their scale."
        )


def _worst(values: ValuesProof, console: Screen) -> None:
    """Print the worst element, and how far the two models are apart that are most alike."""
    worst = values.worst
    if worst is not None and all(row.ok for row in values.outputs):
        console.say(
            f"Worst: output {worst.output} of {worst.model} at {list(worst.at)}, {worst.got} for "
            f"{worst.want}; error {worst.error:.3g} of {worst.allowed:.3g} allowed "
            f"({worst.precision}){_noise(worst.noise)}."
        )
    if values.spread and values.spread.telling:
        one, two = values.spread.models
        console.say(
            f"A mix-up of models would show: the two most alike, {one} and {two}, differ by "
            f"{values.spread.ratio:.3g} times the tolerance."
        )


def _combined(values: ValuesProof, console: Screen) -> None:
    """Print what the proof means for outputs that are a combination of all models."""
    rows = {row.output: row.combined for row in values.outputs if row.combined}
    blind = {row.output for row in values.telling if row.combined and (row.alike or row.left_out)}
    if rows:
        console.say(
            f"Combined of all models: {some([f'{name} ({how})' for name, how in rows.items()])}. Compared "
            "with the same of the sources' outputs. Every model is meant to change them: isolation says "
            "nothing of them."
        )
    if rows.keys() - blind and any(row.combined for row in values.telling):
        shown = some([name for name in rows if name not in blind])
        console.say(f"A model left out of {shown}, or counted in the place of another, would show.")


def _noise(noise: float | None) -> str:
    return "" if noise is None else f"; the source's own rounding noise is {noise:.3g}"
