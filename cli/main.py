"""Commands, options and exit codes. netfuse_onnx.api does the work, render prints the answers.

Exit codes: 0 yes; 1 the answer is no; 2 usage; 3 a file can't be read or written or is invalid; 4 our bug;
5 not proven: the proof could not tell; 130 interrupted; 143 terminated. Humans read stderr; data goes to
stdout.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from netfuse_onnx import __version__
from netfuse_onnx.errors import InternalError, NetfuseError, Stopped, UsageFault

from .add import add
from .answering import answer
from .bundle import bundle
from .check import check
from .export import export
from .hook import hook
from .merge import merge
from .options import (
    adapter_option,
    common_options,
    models_argument,
    proof_arguments,
    proof_options,
    sources_of,
)
from .plan_fleet import plan_fleet
from .process import discard_output, quiet, signals
from .remove import remove
from .report import report
from .serve import serve
from .split import split
from .text import escape_unencodable, printable, write_json
from .update import update
from .verify import verify

ISSUES = "This is a bug. Please report it with the models' architecture and the output of --debug."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="netfuse-onnx")
def cli() -> None:
    """Merge N ONNX models of one architecture with different weights into one graph, proven equal.

    \b
    Example:
      netfuse-onnx merge a.onnx b.onnx c.onnx -o merged.onnx
    """


# --------------------------------------------------------------------------- commands


cli.add_command(merge)
cli.add_command(check)
cli.add_command(verify)
cli.add_command(update)
cli.add_command(add)
cli.add_command(remove)
cli.add_command(bundle)
cli.add_command(report)
cli.add_command(serve)
cli.add_command(export)
cli.add_command(plan_fleet)
cli.add_command(hook)
cli.add_command(split)


@cli.command()
@click.argument("merged", metavar="merged.onnx")
@models_argument
@adapter_option
@click.option("--profile", is_flag=True, help="Show the time by kind of operator, merged and separate.")
@click.option("--rounds", type=click.IntRange(1), default=25, show_default=True, help="Turns of each way.")
@click.option(
    "--seconds",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="For all trials, loads and rounds; more where the first calls take longer.",
)
@proof_options
@common_options
def bench(
    merged: str, models: tuple[str, ...], adapters: tuple[str, ...], as_json: bool, **given: Any
) -> int:
    """Measure a merged file against every other way to run its models.

    The batch is 1 where --dim does not say otherwise. Measure on a quiet machine.

    \b
    Example:
      netfuse-onnx bench merged.onnx a.onnx b.onnx
      netfuse-onnx bench merged.onnx a.onnx b.onnx --dim batch=8 --profile
    """
    paths, called = sources_of(models, adapters)
    options = {key: given[key] for key in ("profile", "rounds", "seconds")}
    return answer("bench", as_json, merged, paths, names=called, **options, **proof_arguments(given))


@cli.command()
@click.argument("merged", metavar="merged.onnx")
@common_options
def inspect(merged: str, as_json: bool) -> int:
    """Show what became of every node: batched, grouped, shared or replicated, and why.

    \b
    Example:
      netfuse-onnx inspect merged.onnx
    """
    return answer("inspect", as_json, merged)


@cli.command()
@common_options
def rules(as_json: bool) -> int:
    """List the operators that have a batching rule. All others are replicated once per model.

    \b
    Example:
      netfuse-onnx rules
    """
    return answer("rules", as_json)


# --------------------------------------------------------------------------- running


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code. Raises nothing but SystemExit on a signal."""
    escape_unencodable()
    args = list(sys.argv[1:] if arguments is None else arguments)
    options = args[: args.index("--")] if "--" in args else args
    debug, as_json = "--debug" in options, "--json" in options
    try:
        with signals(), quiet(debug):
            code = cli.main(args, prog_name="netfuse-onnx", standalone_mode=False)
            if sys.stdout is not None:  # a daemon without one
                sys.stdout.flush()
            return int(code or 0)
    except BrokenPipeError:
        discard_output()
        return 128 + signal.SIGPIPE
    except (KeyboardInterrupt, click.Abort):
        return _stopped("interrupted", 130, as_json)
    except SystemExit as error:  # of signals()
        _stopped("terminated", int(error.code or 0), as_json)
        raise
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(UsageFault(error.format_message(), _see_help(error)), debug, as_json)
    except NetfuseError as error:
        return _fail(error, debug, as_json)
    except Exception as error:
        return _fail(_bug(error), debug, as_json)


def _fail(error: NetfuseError, debug: bool, as_json: bool) -> int:
    if debug:
        import traceback

        traceback.print_exception(error)
    if as_json:
        _write_failure(error)
    _say(f"error: {error.message}")
    hint = error.hint or (ISSUES if isinstance(error, InternalError) else "")
    if hint:
        _say(hint, prefix="  ")
    return error.exit_code


def _stopped(how: str, code: int, as_json: bool) -> int:
    message = f"{how}: nothing was written."
    if as_json:
        _write_failure(Stopped(f"{message[0].upper()}{message[1:]}", code))
    _say(message)
    return code


def _write_failure(error: NetfuseError) -> None:
    """Write the error as JSON to stdout."""
    from netfuse_onnx.report import failure_to_json

    try:
        write_json(failure_to_json(error))
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()


def _bug(error: Exception) -> NetfuseError:
    if isinstance(error, MemoryError):
        return InternalError("There is not enough memory.", "Use --no-verify, or a machine with more.")
    first = (str(error).strip().splitlines() or [""])[0]
    bug = InternalError(f"{type(error).__name__}: {first}", ISSUES)
    bug.__cause__ = error
    return bug


def _see_help(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    return f"See {context.command_path if context else 'netfuse-onnx'} --help."


def _say(text: str, prefix: str = "netfuse-onnx: ") -> None:
    click.echo(prefix + printable(text), err=True)


if __name__ == "__main__":
    sys.exit(main())
