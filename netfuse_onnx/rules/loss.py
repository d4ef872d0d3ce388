"""Losses, written out as the functions of ONNX that define them (since opset 13), with the models on an axis
of their own.

ONNX Runtime takes fewer labels than there are rows: gaps.LABELS_MISSING. With the models folded into the
batch, one model's labels would then read another's rows; stacked they can't.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from netfuse_onnx.emit.emitter import Emitter, Held, Tensor
from netfuse_onnx.layouts import STACKED
from netfuse_onnx.rules._build import as_int64, need, rows_of_each
from netfuse_onnx.rules._registry import Option, family
from netfuse_onnx.rules._site import Operands, Site

SCORES, LABELS, WEIGHTS = range(3)
"""The inputs, which the schemas of the two operators name differently."""


@family("NegativeLogLikelihoodLoss", "SoftmaxCrossEntropyLoss")
def loss(site: Site) -> Iterator[Option]:
    """It is written out: each label gathers its number from its own model's rows; a mean or a sum follows."""
    need(site.opset >= 13, "its definition is of opset 13")
    need(site.rank(SCORES) == site.rank(LABELS) + 1, "its labels have not one axis less than its scores")
    takes = site.takes({SCORES: STACKED(0), LABELS: STACKED(0), WEIGHTS: site.own_layout(WEIGHTS)})
    yield Option("loss", takes, site.gives(STACKED(0)), _loss)


def _loss(site: Site, ins: Operands, emit: Emitter) -> Sequence[Held]:
    """x [N, B, C, ..], labels [N, B, ..] -> [N, B, ..], or [N]"""
    x, labels, *_ = ins
    if site.op == "SoftmaxCrossEntropyLoss":
        x = emit("LogSoftmax", x, axis=2)
    ignored = _ignored(site, labels, emit)
    if ignored is not None:
        labels = emit("Where", ignored, emit.filled(0, site[LABELS].dtype, ()), labels)
    gathered = emit("GatherElements", x, emit.unsqueeze(labels, [2]), axis=2)
    each = emit("Neg", emit.squeeze(gathered, [2]))
    each = each if ignored is None else _unless(ignored, each, site, emit)
    share = _share(site, ins, labels, ignored, emit)
    each = each if share is None else emit("Mul", each, share)
    return [_reduced(site, each, share, emit), x][: len(site.node.outputs)]


def _ignored(site: Site, labels: Tensor, emit: Emitter) -> Tensor | None:
    """The labels that do not count, where the operator names one."""
    index = site.attr("ignore_index")
    if index is None:
        return None
    return emit("Equal", as_int64(site[LABELS], labels, emit), emit.const(int(index)))


def _unless(ignored: Tensor, x: Tensor, site: Site, emit: Emitter) -> Tensor:
    """x, and 0 where a label is ignored, whatever stands there."""
    return emit("Where", ignored, emit.filled(0.0, site[SCORES].dtype, ()), x)


def _share(site: Site, ins: Operands, labels: Tensor, ignored: Tensor | None, emit: Emitter) -> Tensor | None:
    """The weight with which each label counts; None where all count as much, or where only those that are
    ignored do not and no mean is taken."""
    element_type = site[SCORES].dtype
    if not site.has(WEIGHTS):
        if ignored is None or site.attr("reduction") != b"mean":
            return None
        return _unless(ignored, emit.filled(1.0, element_type, ()), site, emit)
    if site.is_mapped(WEIGHTS):
        weights = rows_of_each(ins[WEIGHTS], site[LABELS], labels, site.dims(WEIGHTS)[0], emit)
    else:
        weights = emit("Gather", ins[WEIGHTS], labels, axis=0)
    return weights if ignored is None else _unless(ignored, weights, site, emit)


def _reduced(site: Site, each: Tensor, share: Tensor | None, emit: Emitter) -> Tensor:
    """A loss of each model, [N], where the operator takes a mean or a sum."""
    reduction, inner = site.attr("reduction"), list(range(1, site.rank(SCORES)))
    if reduction == b"none":
        return each
    if reduction == b"sum" or share is not None:
        total = emit.reduce("ReduceSum", each, inner)
        return total if reduction == b"sum" else emit("Div", total, emit.reduce("ReduceSum", share, inner))
    return emit.reduce("ReduceMean", each, inner)
