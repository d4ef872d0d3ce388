"""Where a step stands, in words."""

from __future__ import annotations

from netfuse_onnx.match.flat import BEGIN, Flat, Step


def place(flat: Flat, i: int) -> str:
    """`Conv 'conv1' (operator 12 of 120, output 'h')`."""
    step = flat.steps[i]
    inside = f", inside of {'/'.join(step.scope)}" if step.scope else ""
    output = next((name.rsplit("\0", 1)[-1] for name in step.outs if name), "")
    where = f"operator {i + 1} of {len(flat.steps)}, output '{output}'{inside}"
    return f"{step_name(step)} ({where})"


def places(a: Flat, i: int, b: Flat, j: int) -> str:
    """Both places; one where they read alike."""
    here, there = place(a, i), place(b, j)
    return here if here == there else f"{here} against {there}"


def step_name(step: Step) -> str:
    """`Conv 'conv1'`; the first output stands in for a missing name."""
    if step.op == BEGIN:
        return f"body '{step.attrs['of']}' of {step.attrs['op']} '{step.node.name or step.node.outputs[0]}'"
    return f"{step.node.key} '{node_name(step)}'"


def node_name(step: Step) -> str:
    """The node's name; the first output stands in for a missing one."""
    return step.node.name or next((name for name in step.node.outputs if name), "")
