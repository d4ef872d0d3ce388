"""The batch of a family as a service sees it: which inputs have it, and if requests may share one.

The answer goes into the manifest of a bundle. A service that may not put two requests into one batch is slow;
one that does so where rows mix gives a tenant what another one's request made of it. So whatever is not
proven is a reason against it, and an analysis that fails is one, too.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from netfuse_onnx.errors import NotRoutable
from netfuse_onnx.plan.rows_apart import require_rows_apart
from netfuse_onnx.rewrite.fold import fold
from netfuse_onnx.routing import routing
from netfuse_onnx.types import Correspondence

SECONDS = 60.0
"""The analysis is given up after so many seconds."""
FIXED = "The batch of these models is fixed at 1."


@dataclass(frozen=True, slots=True)
class Batch:
    """The symbols of the batch axis, none where it is fixed at 1, and the inputs whose first axis it is, by
    the first model's names. `mixes` is the reason why rows may not be computed by themselves; '' where they
    are proven to be."""

    symbols: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    mixes: str = ""


def batch_of(family: Correspondence, share: frozenset[str]) -> Batch:
    """Return the batch of a family. `share` are the inputs that a merged call takes once."""
    path, name = family.sources[0].path, family.names[0]
    try:
        found = routing(family)
    except NotRoutable as why:
        return Batch(mixes=why.message.replace(path, name))
    symbols = tuple(sorted(found.batch))
    rows = tuple(each for each in family.graph.inputs if each in found.rows)
    if not symbols:
        return Batch((), rows, FIXED)
    try:
        until = time.monotonic() + SECONDS
        if not family.tails:
            require_rows_apart(family, share, until=until)
        for model, source in enumerate(family.sources if family.tails else ()):
            once = frozenset(family.edge(model).inputs[name] for name in share)
            require_rows_apart(fold(Correspondence.of_one(source)), once, until=until)
    except NotRoutable as why:
        return Batch(symbols, rows, why.message.replace(path, name))
    except Exception as error:  # what can't be analysed is not proven, and no reason to fail a merge
        said = (str(error).splitlines() or [""])[0][:200].replace(path, name)
        return Batch(symbols, rows, f"It is unknown: {type(error).__name__}: {said}.")
    return Batch(symbols, rows)
