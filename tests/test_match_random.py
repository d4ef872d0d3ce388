"""Properties of match on random graphs: another spelling always matches, and one edit is always found."""

from __future__ import annotations

import itertools
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from graphs import disguised, edited, models, reads
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper

from netfuse_onnx.errors import NotEquivalent
from netfuse_onnx.load import rebuild
from netfuse_onnx.load.loader import load
from netfuse_onnx.match.matcher import match
from netfuse_onnx.types import Correspondence, Source

SEEDS = st.integers(0, 2**32)
QUICK = settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))


def sources(*protos: ModelProto) -> list[Source]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"m{i}.onnx") for i in range(len(protos))]
        for path, proto in zip(paths, protos, strict=True):
            onnx.save(proto, path)
        return [load(str(path)) for path in paths]


def run(model: ModelProto) -> list[np.ndarray]:
    """All outputs for one fixed set of inputs."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds: dict[str, np.ndarray] = {}
    for i, entry in enumerate(session.get_inputs()):
        chance = np.random.default_rng(i)
        feeds[entry.name] = chance.standard_normal((2, 4)).astype("f4") if entry.shape else np.array(True)
    return session.run(None, feeds)


def as_model(family: Correspondence, k: int) -> ModelProto:
    """The first source's graph with the weights of model k."""
    weights = {name: found[k if len(found) > 1 else 0] for name, found in family.weights.items()}
    return rebuild.model(replace(family.sources[0], graph=replace(family.graph, weights=weights)))


@QUICK
@given(models(), SEEDS, st.booleans())
def test_another_spelling_matches_and_the_correspondence_is_an_isomorphism(
    model: ModelProto, seed: int, interface: bool
) -> None:
    rng = random.Random(seed)
    others = [disguised(model, rng, interface=interface) for _ in range(2)]
    family = match(sources(model, *others), ["a", "b", "c"])
    for k, spelling in enumerate([model, *others]):
        for ours, theirs in zip(run(as_model(family, k)), run(spelling), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@QUICK
@given(models(), SEEDS, st.booleans())
def test_one_edit_is_found_and_named(model: ModelProto, seed: int, disguise: bool) -> None:
    rng = random.Random(seed)
    edit = edited(model, rng)
    assume(edit is not None)
    assume(edit.kind != "rewire" or not isomorphic(model, edit.model))
    assume(edit.kind not in ("operator", "attribute") or not isomorphic(model, edit.model))
    assume(edit.kind != "rewire" or names(model) == names(edit.model))  # no node died or came to life
    other, named = edit.model, edit.named
    if disguise:
        other = disguised(other, rng)
        named = tuple(f"{name[::-1]}/'\"{len(name)} é" for name in named)
    with pytest.raises(NotEquivalent) as caught:
        match(sources(model, other), ["a", "b"])
    assert any(f"'{name}'" in caught.value.message for name in named), (edit.kind, named)
    assert caught.value.hint


# --------------------------------------------------------------------------- an independent check


def isomorphic(a: ModelProto, b: ModelProto) -> bool:
    """By trying all ways, the weights taken for equal: for small graphs without disguise."""
    ours, theirs = live(a), live(b)
    if Counter(map(kind, ours)) != Counter(map(kind, theirs)):
        return False
    groups = {kind(node): [n for n in theirs if kind(n) == kind(node)] for node in ours}
    mine = {key: [n for n in ours if kind(n) == key] for key in groups}
    assume(len(ours) <= 12 and all(len(group) <= 5 for group in groups.values()))
    ways = [list(itertools.permutations(groups[key])) for key in groups]
    assume(np.prod([len(way) for way in ways]) <= 5000)
    for choice in itertools.product(*ways):
        pairs = [p for key, way in zip(groups, choice, strict=True) for p in zip(mine[key], way, strict=True)]
        if respects(a, b, pairs):
            return True
    return False


def respects(a: ModelProto, b: ModelProto, pairs: list[tuple[NodeProto, NodeProto]]) -> bool:
    to = {x: y for one, other in pairs for x, y in zip(one.output, other.output, strict=True)}
    to |= {v.name: v.name for v in a.graph.input}
    weights = {t.name for t in (*a.graph.initializer, *b.graph.initializer)}
    if [to[v.name] for v in a.graph.output] != [v.name for v in b.graph.output]:
        return False
    for one, other in pairs:
        ours = [to[n] for n in reads(one) if n not in weights]
        theirs = [n for n in reads(other) if n not in weights]
        if one.op_type in ("Add", "Mul"):
            ours, theirs = sorted(ours), sorted(theirs)
        if one.op_type in ("Max", "Min"):
            ours, theirs = sorted(ours), sorted(theirs)
        if ours != theirs:
            return False
    return True


def names(model: ModelProto) -> list[str]:
    return [node.name for node in live(model)]


def kind(node: NodeProto) -> str:
    attrs = [(a.name, helper.get_attribute_value(a)) for a in node.attribute if not a.HasField("g")]
    inner = [[n.op_type for n in a.g.node] for a in node.attribute if a.HasField("g")]
    weights = [name[0] == "w" for name in node.input]
    return repr((node.op_type, attrs, inner, sorted(weights) if node.op_type in ("Add", "Mul") else weights))


def live(model: ModelProto) -> list[NodeProto]:
    needed = {v.name for v in model.graph.output}
    found = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            found.append(node)
            needed.update(reads(node))
    return found[::-1]
