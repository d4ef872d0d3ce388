"""The normal form of a source for comparing: one spelling for everything that means the same.

Axes are counted from the front wherever the rank is known, defaults that only the text of a schema tells are
removed or written down, constants of axes and bounds have one order and one type. Without a rank, an axis
stays as it is. Only the comparison sees this form: the merged graph has the spelling of the first source
(restored.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from netfuse_onnx.match import implied, operands
from netfuse_onnx.match.draft import Draft
from netfuse_onnx.match.flat import BEGIN, Flat, Step
from netfuse_onnx.ops.axes import ONE, REDUCERS, ROWS, SETS, counted_in, from_front
from netfuse_onnx.storage import weights
from netfuse_onnx.types import ValueType, Weight


def normal_form(flat: Flat, types: Mapping[str, ValueType]) -> Flat:
    """Return the steps in normal form, one for one. `types` are those of its values (load/within.py)."""
    steps: list[Step] = []
    stored: dict[str, Weight] = dict(flat.weights)
    file_names: dict[str, str] = {}
    changed: dict[int, frozenset[int]] = {}
    for i, step in enumerate(flat.steps):
        draft = Draft(step, flat, types)
        if step.op != BEGIN:
            _normalise(draft)
        ins = tuple([_name(flat, step, i, k, operand) for k, operand in enumerate(draft.ins)])
        for k, (name, operand) in enumerate(zip(ins, draft.ins, strict=True)):
            if isinstance(operand, Weight) and name not in flat.weights:
                stored[name], file_names[name] = operand, step.ins[k] if k < len(step.ins) else ""
        if ins != step.ins:
            places = range(max(len(ins), len(step.ins)))
            changed[i] = frozenset([k for k in places if ins[k : k + 1] != step.ins[k : k + 1]])
        unchanged = ins == step.ins and draft.attrs == dict(step.attrs)
        steps.append(step if unchanged else replace(step, ins=ins, attrs=draft.attrs))
    uses = [(i, k) for i, step in enumerate(steps) for k, name in enumerate(step.ins) if name in stored]
    return replace(flat, steps=steps, weights=stored, uses=uses, file_names=file_names, changed=changed)


def _name(flat: Flat, step: Step, i: int, k: int, operand: str | Weight) -> str:
    """Return the operand's name: that of the file where it holds the same constant."""
    if isinstance(operand, str):
        return operand
    own = step.ins[k] if k < len(step.ins) else ""
    weight = flat.weights.get(own)
    return own if weight is not None and weights.same(weight, operand) else f"{i}\0{k}"


def _normalise(draft: Draft) -> None:
    """Bring one step into normal form."""
    key = draft.key
    for forms in (operands.FORMS, implied.FORMS, _OTHERS):
        if key in forms:
            forms[key](draft)
    for name in ONE.get(key, ()):
        _one_axis(draft, name)
    if key in SETS and key not in REDUCERS and key not in operands.FORMS:
        axes, rank = draft.attr("axes"), draft.rank(0)
        counted = operands.unordered(axes, rank) if axes and _integers(axes) else None
        if counted is not None:
            draft.attrs["axes"] = counted


def _integers(value: Any) -> bool:
    """Return True for a list of integers. No schema has checked the attributes of other domains."""
    return isinstance(value, list) and all(isinstance(item, int) for item in value)


def _one_axis(draft: Draft, name: str) -> None:
    """Count an attribute that holds one axis from the front."""
    axis = draft.attr(name)
    if not isinstance(axis, int) or (name not in draft.attrs and _scalar_scale(draft)):
        return
    inputs = [draft.type_of(k) for k in range(len(draft.step.ins))]
    rank = counted_in(draft.key, draft.attrs, inputs)
    if rank is not None:
        draft.attrs[name] = from_front(axis, rank)


def _scalar_scale(draft: Draft) -> bool:
    """Return True for a quantising operator with one scale for all elements, which has no axis."""
    return draft.step.op in ("QuantizeLinear", "DequantizeLinear") and draft.rank(1) in (0, None)


def _shape(draft: Draft) -> None:
    """Count the bounds of a Shape from the front and clamp them."""
    rank = draft.rank(0)
    if rank is not None and draft.since() >= 15:
        start, end, _ = slice(draft.attrs.get("start", 0), draft.attrs.get("end")).indices(rank)
        draft.attrs |= {"start": start, "end": max(start, end)}


def _scan(draft: Draft) -> None:
    """Write out axes of zero for all that a Scan scans, and drop directions of zeros."""
    node, count = draft.step.node, draft.attrs.get("num_scan_inputs", 0)
    body = node.attrs.get("body")
    if body is None or draft.since() < 9 or not 0 < count <= len(node.inputs):
        return
    states = len(node.inputs) - count
    inputs = [draft.rank(k) for k in range(states, len(node.inputs))]
    outputs = [draft.type_named(name).rank for name in draft.step.outs[states:]]
    outputs += [None] * (len(body.output) - states - len(outputs))
    for name, ranks in zip(ROWS["Scan"], (inputs, outputs), strict=True):
        axes = draft.attrs.get(name) or [0] * len(ranks)
        if len(axes) == len(ranks):
            draft.attrs[name] = _counted(axes, ranks)
    for name in ("scan_input_directions", "scan_output_directions"):
        if not any(draft.attrs.get(name) or ()):
            draft.drop(name)


def _counted(axes: Sequence[int], ranks: Sequence[int | None]) -> list[int]:
    """Count each axis from the front in its own rank, where known."""
    rows = zip(axes, ranks, strict=True)
    return [axis if rank is None else from_front(axis, rank) for axis, rank in rows]


_OTHERS = {"Scan": _scan, "Shape": _shape}
