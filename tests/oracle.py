"""The one oracle: a merged graph computes the stack of N single runs, or the rule is wrong.

A test gives a small model whose data are all graph inputs, and values with a leading axis of N. The
oracle turns inputs into weights, equal or different, as its `roles` say, merges, and compares every
output of every model in ONNX Runtime, with its optimisations on and off. Where a node has several
lowerings, each is forced in turn, not only the one that the plan would choose.

`check` runs one case, and `sweep` the cases that every rule must pass: all combinations of roles, several
N, both kinds of I/O. What they are made of is in cases.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import cuda_forms
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from cases import IO, Array, draw, few_roles, graph, roles, some_roles, turns

from netfuse_onnx.emit import repeat
from netfuse_onnx.emit.counting import CHOSEN_ROWS, SIZES
from netfuse_onnx.emit.emitter import Emitter
from netfuse_onnx.layouts.channels import Channels
from netfuse_onnx.load import opset as opsets
from netfuse_onnx.load.loader import load
from netfuse_onnx.lower.interpreter import lower
from netfuse_onnx.lowered import Merged
from netfuse_onnx.match.matcher import match
from netfuse_onnx.ops.kinds import UNJOINABLE
from netfuse_onnx.plan import planner as planning
from netfuse_onnx.plan.account import Accounts
from netfuse_onnx.plan.cost import Cost
from netfuse_onnx.rewrite.passes import rewritten
from netfuse_onnx.rules import Option, Site
from netfuse_onnx.rules.fallback import CHEAPER
from netfuse_onnx.run import cuda, gaps, runtime
from netfuse_onnx.run.observe import observed
from netfuse_onnx.storage import weights
from netfuse_onnx.types import Became, Correspondence, Lowering, Plan

__all__ = ["check", "draw", "fails_or_is_right", "few_roles", "graph", "roles", "some_roles", "sweep"]

PROVIDER = os.environ.get("NETFUSE_TEST_PROVIDER", "cpu")
"""The provider of the sessions, `cpu` or `cuda`. On CUDA only what its kernels take is on offer."""
LEVELS = (ort.GraphOptimizationLevel.ORT_ENABLE_ALL, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
TOLERANCE = {np.float32: 2e-5, np.float16: 4e-3, np.float64: 1e-12}

# --------------------------------------------------------------------------- cases


def sweep(
    model: onnx.ModelProto,
    folder: Path,
    *,
    models: Sequence[int] = (3, 2, 5, 1),
    roles: Callable[[Sequence[str]], list[dict[str, str]]] = some_roles,
    steer: Sequence[str] = ("shared weight",),
    sizes: Mapping[str, int] | None = None,
    low: float = -2.0,
    high: float = 2.0,
    given: Mapping[str, Array] | None = None,
    fixed: Mapping[str, str] | None = None,
    alike: Collection[str] = (),
    keep_opset: bool = False,
    tolerance: float | None = None,
    thorough: bool = False,
    tuned: bool = True,
    target: str = "generic",
) -> None:
    """Check the model with every combination of roles of its inputs. Nothing may be replicated.

    The first of `models`, which should equal a dim, is the usual N, the others take turns, and so do both
    kinds of I/O; `thorough` tries every N and both kinds with every combination. Inputs that are `given`
    steer: they are equal in all models and take each role of `steer`. `fixed` gives other inputs a role of
    their own. The rest is as in draw and check.
    """
    given, fixed = given or {}, fixed or {}
    free = [info.name for info in model.graph.input if info.name not in {*given, *fixed}]
    steering = [dict.fromkeys(given, kind) for kind in (steer if given else steer[:1])]
    combinations = list(itertools.product(roles(free), steering))
    for turn, (role, more) in enumerate(combinations):
        for n, io in itertools.product(models, IO) if thorough else turns(models, turn, len(combinations)):
            values = draw(model, n, sizes=sizes, low=low, high=high, given=given)
            what = {**role, **more, **fixed}
            check(
                model,
                values,
                what,
                folder,
                io=io,
                alike=alike,
                keep_opset=keep_opset,
                tolerance=tolerance,
                tuned=tuned,
                target=target,
            )


def check(
    model: onnx.ModelProto,
    values: Mapping[str, Array],
    role: Mapping[str, str],
    folder: Path,
    *,
    io: str = "separate",
    reason: str = "",
    unless: Collection[str] = (),
    alike: Collection[str] = (),
    keep_opset: bool = False,
    tolerance: float | None = None,
    tuned: bool = True,
    forced: bool = True,
    target: str = "generic",
) -> None:
    """Merge and compare. `values[name]` is [N, *shape].

    `reason` is a pattern: some node is replicated and says so; without it no node may be. `unless`: the rules
    that are on offer to some targets all the same; each must have a plan of its own. `alike` names
    outputs that may be equal in all models: for the others the case must tell two models apart.
    `keep_opset` leaves the models at their opset, as operators that onnx cannot convert do. `tuned`: also by
    lowerings that only pay by measured costs. `target`: the one for which the family is rewritten.
    """
    paths = as_models(model, values, role, folder)
    corr = family(paths, keep_opset=keep_opset, target=target)
    singles = sources(paths, values, role)
    assert_distinct(singles, alike)
    chosen: set[str] = set()
    for turn, (plan, merged, what) in enumerate(every_merge(corr, role, io, tuned, forced)):
        left = [low.reason for low in plan.lowerings if low.became is Became.REPLICATED]
        rules = {low.rule for low in plan.lowerings}
        chosen |= rules
        if reason and rules.isdisjoint(unless):
            assert any(re.search(reason, why) for why in left), f"not replicated for that: {left} {what}"
        else:
            assert not left, f"replicated: {left[0]} {what}"
        for level in LEVELS if turn == 0 else LEVELS[turn % 2 :][:1]:
            got = run_unless_refused(merged, merged_feeds(values, role, io, corr.names), level)
            try:
                compare(singles if got else [], got, io, corr.names if got else [], what, tolerance)
            except AssertionError:
                if (right := right_on_cpu(paths, values, role, singles)) is None:
                    raise
                compare(right, got, io, corr.names, what, tolerance)
    assert PROVIDER == "cuda" or chosen.issuperset(unless), f"none of {unless} is on offer"


def fails_or_is_right(
    model: onnx.ModelProto,
    values: Mapping[str, Sequence[Array]],
    role: Mapping[str, str],
    folder: Path,
    *,
    io: str = "separate",
    undefined: Collection[int] = (),
) -> int:
    """Merge, by every lowering, and run on what the merged model need not take, such as values of unequal
    shapes or indices out of range. Returns how many runs failed; the others must be right, but for models of
    which `undefined` says that lowerings for one provider may give another answer."""
    paths = as_models(model, values, role, folder)
    corr = family(paths)
    failed = 0
    for plan, merged, what in every_merge(corr, role, io):
        own = any(isinstance(low.option, Option) and low.option.only for low in plan.lowerings)
        for level in LEVELS:
            try:
                got = run(merged, merged_feeds(values, role, io, corr.names), level)
            except Exception:  # ONNX Runtime raises classes of its own, without a common base
                failed += 1
                continue
            singles = [
                {} if own and m in undefined else single
                for m, single in enumerate(run_apart(paths, values, role))
            ]
            compare(singles, got, io, corr.names, what, None)
    return failed


# --------------------------------------------------------------------------- steps


def as_models(
    model: onnx.ModelProto, values: Mapping[str, Array], role: Mapping[str, str], folder: Path
) -> list[Path]:
    """One file per model: inputs whose role is a weight become initializers with that model's value."""
    paths = []
    for m in range(len(next(iter(values.values())))):
        if m and "weight" not in role.values():  # the files would be equal
            paths.append(paths[0])
            continue
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for name, kind in role.items():
            if kind.endswith("weight"):
                (found,) = [i for i in copy.graph.input if i.name == name]
                copy.graph.input.remove(found)
                array = values[name][0 if kind.startswith("shared") else m]
                copy.graph.initializer.append(
                    onnx.numpy_helper.from_array(np.asarray(array, order="C"), name)
                )
        path = folder / f"m{m}.onnx"
        path.unlink(missing_ok=True)  # a file that is cut and written again goes to the disk at once (ext4)
        onnx.save(copy, path)
        paths.append(path)
    return paths


def family(paths: Sequence[Path], *, keep_opset: bool = False, target: str = "generic") -> Correspondence:
    sources = {path: load(str(path)) for path in paths}
    with mock.patch.object(opsets, "TARGET", 0) if keep_opset else nullcontext():
        names = [f"m{m}" for m in range(len(paths))]
        return rewritten(match([sources[path] for path in paths], names, complete=observed), target)


def every_merge(
    corr: Correspondence, role: Mapping[str, str], io: str, tuned: bool = True, forced: bool = True
) -> Iterator[tuple[Plan, bytes, str]]:
    """Every plan, or the best one if none is `forced`, the model that it makes, and a line that says which case it is."""
    share = shared(role)
    sound = passes_checker(corr.sources[0].path)
    source = onnx.load(corr.sources[0].path)
    every = plans(corr, io, share, tuned)
    for turn, plan in enumerate(every if forced else itertools.islice(every, 1)):
        what = f"N={corr.models} {io} {role} {[(low.rule, *map(str, low.takes)) for low in plan.lowerings]}"
        small = (0, repeat.SMALL)[(turn // 2 + corr.models + 1) % 2]
        with mock.patch.object(repeat, "SMALL", small):
            merged = lower(corr, accounted(plan), io=io, share=share)
        if not small:
            stored_once(merged, what)
        model = materialise(merged)
        if sound:
            onnx.checker.check_model(model, full_check=True)
        alone = any(low.became in (Became.SHARED, Became.REPLICATED) for low in plan.lowerings)
        wrong = cuda_forms.unfit(onnx.load_from_string(model), source if alone else None)
        assert not wrong, f"wrong on CUDA: {wrong} {what}"
        yield plan, model, what


ACCOUNTS: dict[tuple[int, int], Accounts] = {}
"""By the number of models and the opset: one for all tests, so that nodes that share an account are alike."""


def accounted(plan: Plan) -> Plan:
    """The plan with bodies that compare what they emit with the account by which they are priced."""
    return dataclasses.replace(plan, lowerings=tuple(map(_accounted, plan.lowerings)))


def _accounted(lowering: Lowering) -> Lowering:
    option = lowering.option
    if not isinstance(option, Option):
        return lowering

    def body(site: Site, ins: Sequence[Any], emit: Emitter) -> Any:
        before = len(emit.graph.nodes)
        result = option.body(site, ins, emit)
        made = [
            inner
            for node in emit.graph.nodes[before:]
            if not any(node is x for x in (*emit.sizes.nodes, *gathers(emit)))
            for inner in _with_bodies(node)
        ]
        account = ACCOUNTS.setdefault((site.total, site.opset), Accounts()).of(lowering)
        emitted = [(node.op, node.domain or "", len(node.outputs)) for node in made]
        steps = [step for step in account.steps if step.outputs[0].name not in (SIZES, CHOSEN_ROWS)]
        told = [(step.op, step.domain, len(step.outputs)) for step in steps]
        assert emitted == told, f"{lowering.rule} emits {emitted} and is priced by {told}"
        if not any(isinstance(take, Channels) for take in lowering.takes):
            read_at_load = _at_load(made)
            assert read_at_load == [step.at_load for step in steps], f"{lowering.rule}: {emitted}"
        return result

    return dataclasses.replace(lowering, option=dataclasses.replace(option, body=body))


def gathers(emit: Emitter) -> Sequence[gs.Node]:
    """The nodes that gather the weights of the models that a call chooses. Operators share them."""
    return emit.chosen.nodes if emit.chosen is not None else ()


def _with_bodies(node: gs.Node) -> Iterator[gs.Node]:
    """The nodes of the bodies that a node has, then the node."""
    for body in node.attrs.values():
        if isinstance(body, gs.Graph):
            yield from body.nodes
    yield node


def _at_load(nodes: Sequence[gs.Node]) -> list[bool]:
    """True for each node that reads nothing but constants and what such nodes give."""
    stored: set[int] = set()
    result = []
    for node in nodes:
        reads = [x for x in node.inputs if not x.is_empty()]
        result.append(bool(reads) and all(isinstance(x, gs.Constant) or id(x) in stored for x in reads))
        stored.update(id(x) for x in node.outputs if result[-1])
    return result


def stored_once(merged: Merged, what: str) -> None:
    """No merged weight holds copies of a source weight that is equal in all models, or in some."""
    for name, recipe in merged.every_recipe.items():
        if recipe.dtype not in UNJOINABLE and 0 not in recipe.shape:
            once = len(recipe.parts) == len(set(recipe.parts))
            assert once, f"{name} holds a value more than once: {what}"


def passes_checker(path: str) -> bool:
    """ONNX Runtime runs models that onnx.checker refuses, such as GroupNormalization of opset 18."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def shared(role: Mapping[str, str]) -> frozenset[str]:
    return frozenset(name for name, kind in role.items() if kind == "shared input")


def materialise(merged: Merged) -> bytes:
    """The merged model with its weights inside, without the writer."""
    model = onnx.ModelProto()
    model.CopyFrom(merged.model)
    for tensor in model.graph.initializer:
        if tensor.name in merged.recipes:
            tensor.ClearField("data_location")
            tensor.raw_data = b"".join(weights.stream(merged.recipes[tensor.name]))
    return model.SerializeToString()


def run(
    model: bytes | str, feeds: Mapping[str, Array], level: ort.GraphOptimizationLevel
) -> dict[str, Array]:
    return ask(session(model, level), feeds)


def session(model: bytes | str, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return on_provider(ort.InferenceSession(model, options, providers=providers()))


def providers() -> list[tuple[str, dict[str, str]]]:
    if PROVIDER == "cuda":
        cuda.preload(ort)
    return runtime.providers(PROVIDER, tf32=False)


NOTHING_TO_REDUCE = "Can't reduce on dim with value of 0"
"""The text of gaps.REDUCE_OF_NOTHING."""
REFUSED = {
    "Invalid num_outputs value": "SPLIT_OF_NOTHING",
    "attempting to re-use buffer": "CACHE_OF_ITS_PAST",
}
"""Errors of forms that CUDA alone refuses, and their gaps: an error is no wrong value."""


def refused(error: Exception) -> str:
    """The gap for which a merged graph fails on CUDA; '' for any other error."""
    told = [gap for text, gap in REFUSED.items() if text in str(error)]
    return told[0] if told and PROVIDER == "cuda" else ""


def run_unless_refused(
    model: bytes | str, feeds: Mapping[str, Array], level: ort.GraphOptimizationLevel
) -> dict[str, Array]:
    """The outputs; none where CUDA refuses a form that is known for it."""
    try:
        return run(model, feeds, level)
    except Exception as error:  # ONNX Runtime raises classes of its own, without a common base
        if refused(error):
            return {}
        raise


def skip_an_empty_batch() -> None:
    """Skip a test in which the process would end (gaps.EMPTY_MOVED)."""
    if tuple(map(int, ort.__version__.split(".")[:2])) < gaps.EMPTY_MOVED_BEFORE:
        pytest.skip(f"ONNX Runtime {ort.__version__} divides by 0 in an empty batch")


class Lost(Exception):
    """A process can't use the GPU any more, as after a kernel that read what is not its own."""


def on_provider(session: ort.InferenceSession) -> ort.InferenceSession:
    """The session, if it has the provider: ONNX Runtime falls back to the CPU without an error."""
    if PROVIDER == "cuda" and runtime.CUDA not in session.get_providers():
        raise Lost("CUDA is lost to this process")
    return session


def ask(runner: ort.InferenceSession, feeds: Mapping[str, Array]) -> dict[str, Array]:
    names = [out.name for out in runner.get_outputs()]
    feeds = {
        name: np.array(value) for name, value in feeds.items()
    }  # some kernels write into what they are fed
    return dict(zip(names, runner.run(None, feeds), strict=True))


def run_apart(
    paths: Sequence[Path], values: Mapping[str, Sequence[Array]], role: Mapping[str, str]
) -> list[dict[str, Array]]:
    """The outputs of each model."""
    share = shared(role)
    fed = [name for name, kind in role.items() if kind.endswith("input")]
    sessions = {path: session(str(path), LEVELS[0]) for path in paths}
    return [
        ask(sessions[path], {name: values[name][0 if name in share else m] for name in fed})
        for m, path in enumerate(paths)
    ]


def sources(
    paths: Sequence[Path], values: Mapping[str, Sequence[Array]], role: Mapping[str, str]
) -> list[dict[str, Array]]:
    """The outputs of each model. One that does not run on CUDA proves nothing there."""
    try:
        return run_apart(paths, values, role)
    except Lost:
        raise
    except Exception as error:
        if PROVIDER == "cuda":
            pytest.skip(f"the source does not run on CUDA: {str(error)[-200:]}")
        raise


def right_on_cpu(
    paths: Sequence[Path],
    values: Mapping[str, Sequence[Array]],
    role: Mapping[str, str],
    singles: Sequence[Mapping[str, Array]],
) -> list[dict[str, Array]] | None:
    """The outputs that the CPU gives for each model, where a kernel of CUDA gives others for one alone: then its
    values are no measure. None where they agree."""
    if PROVIDER == "cpu":
        return None
    with mock.patch(f"{__name__}.PROVIDER", "cpu"), contextlib.suppress(Exception):
        right = run_apart(paths, values, role)
        try:
            for have, want in zip(singles, right, strict=True):
                for name in want:
                    close(have[name], want[name], name)
        except AssertionError:
            return right
    return None


class Every(Cost):
    """Nodes and bytes, with everything on offer."""

    tuned = True
    measures = True
    provider = "cuda"

    def refusal(self, offer: planning.Lowering) -> str:
        """Nothing on the CPU: what CUDA refuses to run is right there."""
        return super().refusal(offer) if PROVIDER == "cuda" else ""


class EveryOnCpu(Every):
    """The same for the other provider, with what only measured times choose."""

    provider = "cpu"
    measures = True


def plans(corr: Correspondence, io: str, share: frozenset[str], tuned: bool) -> Iterator[Plan]:
    """The best plan, then one per lowering of each node that it did not choose, with that one forced. Those
    that only pay by measured costs are among them; once per model for the price of it is not."""
    cost = Every(corr.models) if tuned else Cost(corr.models)
    found = planning.candidates(corr, io=io, share=share, cost=cost)
    if tuned and PROVIDER == "cpu":
        other = planning.candidates(corr, io=io, share=share, cost=EveryOnCpu(corr.models))
        pairs = zip(found.options, other.options, strict=True)
        found.options = [list({identity(o): o for o in (*more, *offers)}.values()) for offers, more in pairs]
    found.options = [[o for o in offers if o.reason != CHEAPER] for offers in found.options]
    best = planning.plan(corr, io=io, share=share)
    yield best
    prices = Cost(corr.models)
    for i, offers in enumerate(found.options):
        for offer in offers if len(offers) > 1 else []:
            if identity(offer) == identity(best.lowerings[i]):
                continue
            forced = dataclasses.replace(
                found, options=[*found.options[:i], [offer], *found.options[i + 1 :]]
            )
            search = planning.Search(corr, forced, prices)
            solution = search.solve()
            yield Plan(search.chosen(solution), solution.cost, solution.exact)


def identity(offer: planning.Lowering) -> tuple[object, ...]:
    return offer.rule, offer.takes, offer.gives


def merged_feeds(
    values: Mapping[str, Sequence[Array]], role: Mapping[str, str], io: str, names: Sequence[str]
) -> dict[str, Array]:
    feeds = {}
    for name, kind in role.items():
        if kind == "shared input":
            feeds[name] = values[name][0]
        elif kind == "input" and io == "stacked":
            feeds[name] = values[name]
        elif kind == "input":
            feeds |= {f"{model}/{name}": values[name][m] for m, model in enumerate(names)}
    return feeds


# --------------------------------------------------------------------------- verdicts


def assert_distinct(singles: Sequence[Mapping[str, Array]], alike: Collection[str]) -> None:
    """A case in which all models give the same could not see two of them swapped."""
    for name, first in singles[0].items():
        same = [
            np.array_equal(first, other[name], equal_nan=first.dtype.kind == "f") for other in singles[1:]
        ]
        if same and first.size and name not in alike:
            assert not all(same), f"output {name} is the same in all models: the case proves nothing"


def compare(
    singles: Sequence[Mapping[str, Array]],
    got: Mapping[str, Array],
    io: str,
    names: Sequence[str],
    what: str,
    tolerance: float | None,
) -> None:
    for m, (model, single) in enumerate(zip(names, singles, strict=True)):
        for name, want in single.items():
            assert io == "separate" or len(got[name]) == len(names), (
                f"{what}: {name} has another axis of models"
            )
            have = got[name][m] if io == "stacked" else got[f"{model}/{name}"]
            assert have.shape == want.shape and have.dtype == want.dtype, f"{what}: {name} of model {m}"
            close(have, want, f"{what}: {name} of model {m}", tolerance)


def close(have: Array, want: Array, what: str, tolerance: float | None = None) -> None:
    """Equal within the tolerance of the type, relative to the largest element."""
    limit = TOLERANCE.get(want.dtype.type, 0.0) if tolerance is None else tolerance
    if limit == 0.0:
        np.testing.assert_array_equal(have, want, err_msg=what)
        return
    finite = np.abs(want[np.isfinite(want)], dtype=np.float64)
    scale = float(finite.max(initial=1e-3))
    if finite.size < want.size or not (np.abs(have - want) <= limit * scale).all():
        np.testing.assert_allclose(have, want, rtol=limit, atol=limit * scale, err_msg=what)
