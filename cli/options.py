"""Options that several commands share, and their values as arguments of the verbs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.core import ParameterSource

from netfuse_onnx import edges
from netfuse_onnx.errors import UsageFault

Command = Callable[..., Any]
TUNE, LOW_RANK = "--tune", "--low-rank"
BY_ITSELF = {TUNE: "60", LOW_RANK: "0"}
"""The values of options whose value may be left out: seconds, and the tolerance that stands for the rounding
of the stored type."""


def _options(*each: Command) -> Command:
    """Return the decorator that adds all of these."""
    return lambda command: functools.reduce(lambda made, add: add(made), each, command)


DIM = "Size of a symbolic dimension. Several (batch=1,8): planned and proven for each of them."
common_options = _options(
    click.option("--debug", is_flag=True, expose_value=False, help="On an error, print the traceback."),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON on stdout."),
)
proof_options = _options(
    click.option("--ort-library", "libraries", multiple=True, metavar="PATH", help="Custom operators."),
    click.option("--inputs", default="", metavar="FILE.npz", help="Prove with these inputs: a/x or x."),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the inputs."),
    click.option("--rtol", type=click.FloatRange(min=0), help="Relative error allowed."),
    click.option("--atol", type=click.FloatRange(min=0), help="Absolute error allowed."),
    click.option("--max-memory", metavar="SIZE", help="Of the proof, estimated: 500M, 2GB.  [default: 2GB]"),
    click.option("--dim", "dims", multiple=True, metavar="NAME=VALUE", help=DIM),
    click.option(
        "--provider",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        show_default=True,
        help="Where to prove; auto is CUDA when it is usable.",
    ),
)
SELECT = "--select"
io_options = _options(
    click.option(
        "--io",
        type=click.Choice([edges.SEPARATE, edges.ALL_MODELS, edges.ROUTED]),
        default=edges.SEPARATE,
        show_default=True,
        help="separate: a/x, b/x, ...; stacked: x with a leading axis of one row per model; routed: x with a "
        "row for each request, and an input that has the model of each row.",
    ),
    click.option(
        "--routing",
        type=click.Choice(["auto", edges.SLOTS, edges.INDEX]),
        default="auto",
        show_default=True,
        help="With --io routed. slots: rows of one model side by side, at the cost of all models times the "
        "most rows of one; index: each row with its own weights, at the cost of the rows; auto: the cheaper.",
    ),
    click.option(
        SELECT,
        is_flag=True,
        help="With --io stacked: a call names the models that it wants by their places, in the input models "
        "(models=[2, 0] has two rows of everything), and runs no others.",
    ),
)
models_argument = click.argument("models", nargs=-1, metavar="[NAME=]A.onnx [NAME=]B.onnx ...")
merged_argument = click.argument("merged", metavar="merged.onnx")
change_options = _options(
    click.option("-o", "--out", metavar="next.onnx", help="Write this file, and leave merged.onnx alone."),
    click.option("--no-verify", is_flag=True, help="Write without the proofs. Needs no ONNX Runtime."),
)
names_option = click.option(
    "--names",
    metavar="a,b,c",
    help="Model names, as NAME=a.onnx gives them one by one. Default: file names without ending, or the part "
    "of the paths that differs.",
)
adapter_option = click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="[NAME=]PATH",
    help="A LoRA adapter of the one model that is given: a safetensors file with its adapter_config.json, or "
    "the folder of both, as peft saves them. Each is one model, with the base.",
)
tune_option = click.option(
    TUNE,
    type=click.FloatRange(0),
    metavar="[SECONDS]",
    help="Choose the plan by measuring on this machine, where --provider says, for about so many seconds (60 "
    "by itself). Times are remembered for the next run.",
)
combine_option = click.option(
    "--combine",
    multiple=True,
    metavar="[NAME=]mean|vote|sum",
    help="Give an output once, combined of all models; without a name, all outputs. Made for --share-input.",
)
low_rank_options = _options(
    click.option(
        "--base",
        metavar="BASE.onnx",
        help="With --low-rank: the model from which the others were trained. Without it, the first model.",
    ),
    click.option(
        LOW_RANK,
        "low_rank",
        type=float,
        metavar="[TOLERANCE]",
        help="Store weights that differ by a product of low rank, as LoRA makes them, as one weight and two "
        "small factors for each model: exact to the rounding of the type, or within TOLERANCE times "
        "the largest value of a row.",
    ),
)
partial_option = click.option(
    "--partial", is_flag=True, help="Accept local differences; replicate those nodes."
)


simplify_option = click.option(
    "--simplify",
    is_flag=True,
    help="Compare and merge the models as onnxslim simplifies them; their values are proven as they are.",
)


class WithOptionalValues(click.Command):
    """A command with options whose value may be left out. What follows one is its value only where that is a
    number: a model may stand there, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        for k in range(end - 1, -1, -1):
            if args[k] in BY_ITSELF:
                given = k + 1 < end and _is_number(args[k + 1])
                args[k : k + 1 + given] = [f"{args[k]}={args[k + 1] if given else BY_ITSELF[args[k]]}"]
        return super().parse_args(ctx, args)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --------------------------------------------------------------------------- their values


def at_least_two(models: Sequence[str], adapters: Sequence[str] = ()) -> None:
    if len(adapters) == 1:
        raise UsageFault("1 adapter given, two or more are needed.", "Give an --adapter for each model.")
    if len(models) < 2 and not adapters:
        raise UsageFault(f"{len(models)} model given, two or more are needed.", "Give all models to merge.")


Named = tuple[tuple[str, ...], tuple[str, ...] | None]
"""The paths of the models and their names; None where the paths are to tell them, or the merged file."""


def named_models(models: Sequence[str], names: str | None, adapters: Sequence[str] = ()) -> Named:
    """Return the paths of the models and their names, from NAME=PATH or from --names."""
    from netfuse_onnx.names import from_command_line

    each = None if names is None else names.split(",")
    return _on_base(models, adapters, from_command_line(adapters or models, each))


def sources_of(models: Sequence[str], adapters: Sequence[str] = ()) -> Named:
    """Return the paths of a merged file's sources, and their names where they are given as NAME=PATH."""
    from netfuse_onnx.names import all_or_none

    if not models:
        raise UsageFault("No models were given.", "Give the merged file, then the models, in their order.")
    return _on_base(models, adapters, all_or_none(adapters or models))


def _on_base(models: Sequence[str], adapters: Sequence[str], named: Named) -> Named:
    """Return the paths of adapters as those of models with the one base; other paths as they are."""
    if not adapters:
        return named
    if len(models) != 1:
        raise UsageFault(
            f"--adapter needs one model, its base, and {len(models)} were given.",
            "Give the base alone, and an --adapter for each model.",
        )
    from netfuse_onnx.load import adapters as adapters_

    return adapters_.paths(models[0], named[0]), named[1]


def io_argument(io: str, select: bool) -> str:
    """Return the word for how values cross the edge. --select makes inputs and outputs stacked by itself."""
    if not select:
        return io
    given = click.get_current_context().get_parameter_source("io") is ParameterSource.COMMANDLINE
    if given and not edges.is_stacked(io):
        raise UsageFault(
            f"--select is for stacked inputs and outputs, not --io {io}.",
            "Give --io stacked --select, or leave out --select.",
        )
    return edges.SELECTED


def data_arguments(external: bool, single: bool) -> str:
    if external and single:
        raise UsageFault("--external-data and --single-file exclude each other.", "Give one of them.")
    return "external" if external else "single" if single else "auto"


def combined(each: Sequence[str]) -> dict[str, str]:
    """Return the combinations by output, '' for all that are not named."""
    from netfuse_onnx import arguments

    return arguments.combinations_given(each)


def proof_arguments(given: dict[str, Any]) -> dict[str, Any]:
    from netfuse_onnx import arguments

    keys = ("provider", "rtol", "atol", "seed", "inputs", "libraries", "max_memory")
    chosen = {key: given[key] for key in keys if given[key] is not None}
    return chosen | {"dims": arguments.dimensions(given["dims"])}
