"""The command plan-fleet."""

from __future__ import annotations

import click

from .options import common_options


@click.command("plan-fleet")
@click.argument("fleet", metavar="FLEET.toml")
@click.option("-o", "--out", metavar="PLAN.json", help="Write the plan as JSON, as --json prints it.")
@click.option("--exact", is_flag=True, help="Find the best plan, with SciPy's solver: for small fleets.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    help="After these, the search and the solver end with the best plan so far.",
)
@click.option(
    "--simulate",
    type=click.IntRange(min=0),
    default=24,
    show_default=True,
    metavar="MACHINES",
    help="Simulate the requests of so many machines, those with the most load first; 0 for none.",
)
@click.option("--compare/--no-compare", default=True, help="Plan simple ways, too.  [default: compare]")
@common_options
def plan_fleet(
    fleet: str, out: str | None, exact: bool, seconds: float, simulate: int, compare: bool, as_json: bool
) -> int:
    """Plan which models to merge with each other, with how many replicas, on which machines.

    The plan takes the fewest machines, or the lowest price, that have the memory and meet the latency
    targets. Its requests are simulated with the scheduler that serves them.

    \b
    Example:
      netfuse-onnx plan-fleet fleet.toml
      netfuse-onnx plan-fleet fleet.toml -o plan.json --exact --seconds 60
    """
    from netfuse_onnx.fleet.output import refuse_others, write_plan
    from netfuse_onnx.fleet.planning import plan_fleet as planned

    from . import render
    from .progress import progress

    if out is not None:
        refuse_others(out, fleet)  # before the time that a plan takes
    with progress() as tell:
        report = planned(
            fleet, exact=exact, seconds=seconds, simulate=simulate, compare=compare, progress=tell
        )
    if out is not None and report.ok:
        write_plan(report, out, fleet)
    return render.answer(report, as_json)
