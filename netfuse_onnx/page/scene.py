"""The graph of a page as one JSON value, which its script draws."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from netfuse_onnx.page import groups
from netfuse_onnx.page.graph import Box, Drawing
from netfuse_onnx.page.layout import Places
from netfuse_onnx.types import Became
from netfuse_onnx.units import size

KINDS = (*Became, groups.CONVERSION, groups.ROUTING, groups.ADDED, groups.INPUT, groups.OUTPUT)
"""The kinds of boxes, in the order of the legend."""
NEAR_NUMBER = 3
"""The number of a module belongs to a heading where it stands so near behind the name."""
MOST_NAMES = 64
"""The most names of merged inputs or outputs that a box lists."""


def scene(drawing: Drawing, at: Places) -> dict[str, Any]:
    """Return the JSON value: sizes in pixels, boxes by their middles, lines by their bends."""
    layouts = sorted({arrow.layout for arrow in drawing.arrows})
    return {
        "width": round(at.width),
        "height": round(at.height),
        "kinds": [str(kind) for kind in KINDS],
        "layouts": layouts,
        "columns": [
            [round(one.left), round(one.right), *heading([drawing.boxes[box] for box in one.boxes])]
            for one in at.columns
        ],
        "nodes": [
            {"x": round(x), "y": round(y), **_node(box)}
            for box, (x, y) in zip(drawing.boxes, at.middles, strict=True)
        ],
        "edges": [
            [
                arrow.start, arrow.end, layouts.index(arrow.layout), len(arrow.values),
                _line(at, arrow.start, arrow.end),
            ]
            for arrow in drawing.arrows
        ],
    }  # fmt: skip


def embedded(value: Any) -> str:
    """Return JSON that may stand in a script element, whatever names it holds: no `<`, and no line end that
    scripts know and JSON does not."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def heading(boxes: Sequence[Box]) -> tuple[str, str]:
    """Return the modules of a column: the first and the last name behind the path that all have, and the
    first alone."""
    paths = [box.module.split(".") for box in boxes if box.module]
    if not paths:
        return "", ""
    same = 0
    while all(len(path) > same for path in paths) and len({path[same] for path in paths}) == 1:
        same += 1
    names = list(dict.fromkeys(filter(None, (_around(path, same) for path in (paths[0], paths[-1])))))
    names = names or [_around(paths[0], same - 1)]
    return " to ".join(names), names[0]


def _around(path: Sequence[str], place: int) -> str:
    """Return the name at this place of a path, up to the number that follows and from the name before it:
    `layer.3` says more than `3` or `layer`."""
    start, end = place, min(place + 1, len(path))
    while start > 0 and path[start : start + 1] and path[start].isdigit():
        start -= 1
    for far in range(place, min(place + NEAR_NUMBER, len(path))):
        if path[far].isdigit():
            end = far + 1
    return ".".join(path[start:end])


def _node(box: Box) -> dict[str, Any]:
    """Return the facts of a box, without those that are empty."""
    row, group = box.row, box.group
    facts = {
        "k": [str(kind) for kind in KINDS].index(box.became),
        "n": group.name,
        "o": box.op,
        "rule": row.rule if row else "",
        "why": row.reason if row else "",
        "cost": row.cost if row else "",
        "takes": list(row.takes) if row else [],
        "gives": list(row.gives) if row else [],
        "from": group.before,
        "to": group.after,
        "edge": group.boundary,
        "made": [[op, count] for op, count in box.counts.items()],
        "weights": [
            [
                weight.value,
                weight.dtype,
                " × ".join(map(str, weight.shape)) or "scalar",
                size(weight.nbytes),
                count,
            ]
            for weight, count in Counter(box.weights).items()
        ],
        "attrs": [[name, text] for name, text in box.attributes.items()],
        "mod": box.module,
        "names": group.tensors[:MOST_NAMES],
        "more": max(0, len(group.tensors) - MOST_NAMES),
        "in": [[inner.name, inner.op, str(inner.became)] for inner in box.inside],
    }
    return {key: value for key, value in facts.items() if value or key in ("k", "n", "o")}


def _line(at: Places, start: int, end: int) -> list[int] | int:
    """Return the bends of a line; 0 where it is not drawn."""
    bends = at.bends.get((start, end))
    return 0 if bends is None else [round(number) for point in bends for number in point]
