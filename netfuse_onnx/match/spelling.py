"""The normal form of a source for comparing: one spelling for all that says the same.

Axes are counted from the front wherever the rank is known, defaults that only the text of a schema tells are
left out or written down, constants of axes and bounds are in one order and of one type. Where a rank is not
known, an axis stays as it is. Only the comparison sees this form: the merged graph has the spelling of the
first source (kept.py).
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


def spelled(flat: Flat, kinds: Mapping[str, ValueType]) -> Flat:
    """The flat in normal form, step for step. `kinds`: the types of its values (load/within.py)."""
    steps: list[Step] = []
    held: dict[str, Weight] = dict(flat.weights)
    plain: dict[str, str] = {}
    changed: dict[int, frozenset[int]] = {}
    for i, step in enumerate(flat.steps):
        draft = Draft(step, flat, kinds)
        if step.op != BEGIN:
            _spell(draft)
        ins = tuple([_name(flat, step, i, k, operand) for k, operand in enumerate(draft.ins)])
        for k, (name, operand) in enumerate(zip(ins, draft.ins, strict=True)):
            if isinstance(operand, Weight) and name not in flat.weights:
                held[name], plain[name] = operand, step.ins[k] if k < len(step.ins) else ""
        if ins != step.ins:
            places = range(max(len(ins), len(step.ins)))
            changed[i] = frozenset([k for k in places if ins[k : k + 1] != step.ins[k : k + 1]])
        same = ins == step.ins and draft.attrs == dict(step.attrs)
        steps.append(step if same else replace(step, ins=ins, attrs=draft.attrs))
    uses = [(i, k) for i, step in enumerate(steps) for k, name in enumerate(step.ins) if name in held]
    return replace(flat, steps=steps, weights=held, uses=uses, plain=plain, changed=changed)


def _name(flat: Flat, step: Step, i: int, k: int, operand: str | Weight) -> str:
    """The operand's name; that of the file where it holds the same constant."""
    if isinstance(operand, str):
        return operand
    own = step.ins[k] if k < len(step.ins) else ""
    held = flat.weights.get(own)
    return own if held is not None and weights.same(held, operand) else f"{i}\0{k}"


def _spell(draft: Draft) -> None:
    key = draft.key
    for forms in (operands.FORMS, implied.FORMS, _OTHERS):
        if key in forms:
            forms[key](draft)
    for name in ONE.get(key, ()):
        _one(draft, name)
    if key in SETS and key not in REDUCERS and key not in operands.FORMS:
        axes, rank = draft.attr("axes"), draft.rank(0)
        found = operands.unordered(axes, rank) if axes and _integers(axes) else None
        if found is not None:
            draft.attrs["axes"] = found


def _integers(value: Any) -> bool:
    """True for a list of integers: no schema has checked the attributes of a foreign domain."""
    return isinstance(value, list) and all(isinstance(item, int) for item in value)


def _one(draft: Draft, name: str) -> None:
    """An attribute that holds one axis."""
    axis = draft.attr(name)
    if not isinstance(axis, int) or (name not in draft.attrs and _scalar_scale(draft)):
        return
    inputs = [draft.kind(k) for k in range(len(draft.step.ins))]
    rank = counted_in(draft.key, draft.attrs, inputs)
    if rank is not None:
        draft.attrs[name] = from_front(axis, rank)


def _scalar_scale(draft: Draft) -> bool:
    """True for an operator on bytes that has one scale for all, and so no axis."""
    return draft.step.op in ("QuantizeLinear", "DequantizeLinear") and draft.rank(1) in (0, None)


def _shape(draft: Draft) -> None:
    """Shape: the bounds counted from the front and clamped."""
    rank = draft.rank(0)
    if rank is not None and draft.since() >= 15:
        start, end, _ = slice(draft.attrs.get("start", 0), draft.attrs.get("end")).indices(rank)
        draft.attrs |= {"start": start, "end": max(start, end)}


def _scan(draft: Draft) -> None:
    """Scan: axes and directions of all that is scanned, zeros where they are absent."""
    node, count = draft.step.node, draft.attrs.get("num_scan_inputs", 0)
    body = node.attrs.get("body")
    if body is None or draft.since() < 9 or not 0 < count <= len(node.inputs):
        return
    states = len(node.inputs) - count
    fed = [draft.rank(k) for k in range(states, len(node.inputs))]
    made = [draft.of(name).rank for name in draft.step.outs[states:]]
    made += [None] * (len(body.output) - states - len(made))
    for name, ranks in zip(ROWS["Scan"], (fed, made), strict=True):
        axes = draft.attrs.get(name) or [0] * len(ranks)
        if len(axes) == len(ranks):
            draft.attrs[name] = _counted(axes, ranks)
    for name in ("scan_input_directions", "scan_output_directions"):
        if not any(draft.attrs.get(name) or ()):
            draft.drop(name)


def _counted(axes: Sequence[int], ranks: Sequence[int | None]) -> list[int]:
    rows = zip(axes, ranks, strict=True)
    return [axis if rank is None else from_front(axis, rank) for axis, rank in rows]


_OTHERS = {"Scan": _scan, "Shape": _shape}
