"""The arguments of the verbs, checked before any work. Every function here raises UsageFault."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from netfuse_onnx import edges
from netfuse_onnx.dims import MOST_POINTS, Sizes, combinations, points
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.names import from_paths
from netfuse_onnx.plan import targets
from netfuse_onnx.types import Correspondence
from netfuse_onnx.units import bytes_in

CHOICES = {
    "io": (*edges.MODES, edges.ROUTED),
    "routing": ("auto", "slots", "index"),
    "target": ("generic", "cpu", "cuda", "auto"),
    "data": ("auto", "external", "single"),
    "provider": ("auto", "cpu", "cuda"),
    "combination": ("mean", "vote", "sum"),
}

LEAST_MEMORY = 200_000_000
"""The smallest number of bytes for --max-memory."""


def choice(option: str, value: str) -> str:
    """Return one of the words that an option accepts."""
    if value not in CHOICES[option]:
        raise UsageFault(f"There is no {option} {value!r}.", f"Choose {' or '.join(CHOICES[option])}.")
    return value


def edge(io: str, routing: str) -> None:
    """Check the form of inputs and outputs."""
    choice("io", io)
    if choice("routing", routing) != "auto" and io != "routed":
        raise UsageFault(f"--routing {routing} says how rows find their models.", "Add --io routed.")


def target(value: str) -> str:
    """Return a known target, auto, or the path of a file of constants that bench/calibrate.py wrote."""
    return value if value.endswith(".json") else choice("target", value)


def tuned_for(value: str, tune: float | None, provider: str) -> str:
    """Return the target of a plan, which is that of the provider where the plan is measured."""
    if tune is None:
        return target(value)
    if tune < 0:
        raise UsageFault(f"--tune can't take {tune:g} seconds.", "Give 0 or more.")
    if target(value) == "generic":
        return provider
    made_for = targets.provider(value)
    if made_for != provider:
        raise UsageFault(
            f"--target {value} is for {made_for}, and --tune would measure on {provider}.",
            "Leave out --target, or name the other with --provider.",
        )
    return value


def model_names(paths: Sequence[str], names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the models: those given, or those that the paths suggest."""
    if names is None:
        return from_paths(paths)
    if len(names) != len(paths):
        raise UsageFault(f"{len(names)} names for {len(paths)} models.", "Give one name per model, in order.")
    for name in names:
        if not name or "/" in name:
            raise UsageFault(f"A model can't be called {name!r}.", "Names are not empty and hold no slash.")
        if names.count(name) > 1:
            raise UsageFault(f"Two models are called {name!r}.", "Give every model a name of its own.")
    return tuple(names)


def shared_inputs(share: Sequence[str], family: Correspondence) -> frozenset[str]:
    """Return the inputs that are fed once, by the first model's names; any model's name may be given."""
    inputs = family.graph.inputs
    shared = set[str]()
    for given in share:
        meant = {n for m in range(family.models) for n in inputs if family.edge(m).inputs[n] == given}
        if given not in inputs and len(meant) != 1:
            elsewhere = (
                f", and in other models it is {' and '.join(map(repr, sorted(meant)))}" if meant else ""
            )
            raise UsageFault(
                f"{family.sources[0].path} has no input {given!r} to share{elsewhere}.",
                f"Its inputs are: {', '.join(inputs)}.",
            )
        shared.add(given if given in inputs else meant.pop())
    return frozenset(shared)


def combined_outputs(given: str | Mapping[str, str], family: Correspondence) -> dict[str, str]:
    """Return the combined outputs by the first model's names, each with mean, sum or vote. `given` is one
    such word for all outputs, or one for each name, which may be any model's; '' stands for all others."""
    wanted = {"": given} if isinstance(given, str) else dict(given)
    if family.tails and any(wanted.values()):
        raise UsageFault(
            "The models end in operators of their own, so their outputs can't be combined.",
            "Leave out --combine.",
        )
    for how in filter(None, wanted.values()):
        choice("combination", how)
    every = dict.fromkeys(family.graph.outputs, wanted.pop("", ""))
    every |= {_output(name, family): how for name, how in wanted.items()}
    return {name: how for name, how in every.items() if how}


def _output(given: str, family: Correspondence) -> str:
    """Return the first model's name of an output, which any model may call `given`."""
    outputs = family.graph.outputs
    meant = {n for m in range(family.models) for n in outputs if family.edge(m).outputs[n] == given}
    if given in outputs:
        return given
    if len(meant) != 1:
        raise UsageFault(
            f"{family.sources[0].path} has no output {given!r} to combine.",
            f"Its outputs are: {', '.join(outputs)}.",
        )
    return meant.pop()


def combinations_given(each: Sequence[str]) -> dict[str, str]:
    """Return the combinations by output from `mean` and `NAME=mean`. The last = counts."""
    found: dict[str, str] = {}
    for text in each:
        name, _, how = text.rpartition("=")
        if name in found:
            raise UsageFault(
                f"--combine says twice what becomes of {repr(name) if name else 'all outputs'}.",
                "Say it once for each output.",
            )
        found[name] = choice("combination", how)
    return found


def dimensions(pairs: Sequence[str]) -> dict[str, int | tuple[int, ...]]:
    """Return sizes by name from `NAME=VALUE` or `NAME=VALUE,VALUE`. The last = counts: names may contain
    one."""
    dims: dict[str, int | tuple[int, ...]] = {}
    for pair in pairs:
        name, mark, value = pair.rpartition("=")
        words = value.split(",")
        if not (mark and name and all(word.isascii() and word.isdecimal() for word in words)):
            raise UsageFault(
                f"{pair!r} is no dimension.",
                "Write --dim NAME=VALUE, such as --dim batch=4 or --dim batch=1,8,32.",
            )
        each = tuple(dict.fromkeys(map(int, words)))
        dims[name] = each if len(each) > 1 else each[0]
    return dims


def sizes(dims: Sizes) -> list[dict[str, int]]:
    """Return every combination of sizes. Refuse negative ones, none at all, and too many combinations."""
    for name, value in dims.items():
        each = (value,) if isinstance(value, int) else value
        if not each:
            raise UsageFault(f"Dimension {name!r} has no size.", "Give one or more.")
        for size in each:
            if size < 0:
                raise UsageFault(f"Dimension {name!r} can't have size {size}.", "Sizes are 0 or more.")
    count = combinations(dims)
    if count > MOST_POINTS:
        raise UsageFault(
            f"The sizes have {count} combinations, and at most {MOST_POINTS} are planned for.",
            "Give fewer sizes.",
        )
    return points(dims)


def one_size(verb: str, dims: Sizes) -> None:
    """Refuse several sizes of one dimension, for a verb that has one case."""
    for name, value in dims.items():
        if not isinstance(value, int) and len(value) > 1:
            raise UsageFault(
                f"{verb} takes one size of {name!r}, and {len(value)} were given.",
                f"Run {verb} once for each size.",
            )


def memory(value: str | int) -> int:
    """Return the bytes in `500M`, `2GB`, `1.5GiB` or a plain number."""
    size = bytes_in(value)
    if size is None:
        raise UsageFault(
            f"{str(value)!r} is no amount of memory.", "Write --max-memory 500M or --max-memory 2GB."
        )
    if size < LEAST_MEMORY:
        raise UsageFault(
            f"{str(value)!r} is too little for a proof: Python and ONNX Runtime alone take about 120 MB.",
            f"Give --max-memory {LEAST_MEMORY // 10**6}M or more.",
        )
    return size


def positive(what: str, value: int) -> int:
    """Refuse a number below 1."""
    if value < 1:
        raise UsageFault(f"{what} can't be {value}.", "Give 1 or more.")
    return value
