"""Offers a source inputs of one batch size, the most informative first.

    for case in offers:
        run it; where the source refuses, offers.refused(message)

The sizes come from the ladder. A refusal decides what comes next: each message may propose other sizes, and
the proposals of a new message come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from netfuse_onnx.run import symbols
from netfuse_onnx.run.inputs import STYLES, Case, InputSpec
from netfuse_onnx.run.ladder import PLAIN, Rung, Sizes, ladder, numbers

FIRST, NEXT, LATER = 24, 12, 3
"""The most proposals that are followed: from the first rung, with another style, from other rungs."""
CLIMB = 3
"""The rungs that are climbed to see more, at most."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A case that ran, and its batch size."""

    case: Case
    batch: int


class Offers:
    """Cases in the order in which they are to be tried; each is offered once."""

    def __init__(
        self,
        specs: Sequence[InputSpec],
        batch: int,
        dims: Mapping[str, int],
        *,
        models: int = 1,
        seen: Seen | None = None,
        begin: Rung = (0, 0),
        only: Case | None = None,
    ) -> None:
        shapes = [spec.dims for spec in specs]
        self.heads = symbols.batches(shapes)
        self.batch = batch
        self.outer = dict.fromkeys(self.heads, batch) | dict(dims)
        self.fixed = dims
        self.seen = seen
        self.begin = begin
        self.only = only
        names = [name for name in symbols.free(shapes) if name not in self.outer]
        self.ladder = ladder(shapes, names, models)
        further = [head for head in self.heads[1:] if head not in dims]
        self.wider = ladder(shapes, names + further, models)  # such as batch * heads
        self._refusal = ""
        self._done = set[tuple[object, ...]]()
        self._messages = set[str]()

    def refused(self, message: str) -> None:
        """Note that the case that was offered last does not run, with the message of ONNX Runtime."""
        self._refusal = message or "refused"

    def __iter__(self) -> Iterator[Case]:
        if self.only:
            yield self.only
            return
        for case, most in self._starts():
            yield from self._follow(case, most)

    def _starts(self) -> Iterator[tuple[Case, int]]:
        """Yield cases, each with the number of proposals that are followed from it."""
        if self.seen:
            yield self._titled(replace(self.seen.case, sizes=self._carried(self.seen))), LATER
        first, *others = STYLES
        near = [*self.ladder.rung(self.begin)]
        for sizes in near:
            yield self._case(sizes, first), FIRST // len(near)
        for style in others:
            for sizes in near[:: len(near) - 1 or 1]:  # all different, and all alike
                yield self._case(sizes, style), NEXT // len(near)
        for sizes in self._far():
            yield self._case(sizes, first), LATER
        fixed = sorted(size for size in self.wider.taken if size > 1)
        for sizes in self.wider.relations(self.outer, fixed):
            yield self._case(sizes, first), 0
        for size in (2, 1, self.batch):
            yield self._case(dict.fromkeys(self.ladder.names, size), first), 0
        for style in others:
            for sizes in self._far():
                yield self._case(sizes, style), 0

    def larger(self, case: Case) -> Iterator[Case]:
        """Yield a case with larger sizes, to see more: from each rung those up to the first that runs."""
        style = (case.floats, case.integers)
        plain, wide = self.begin
        for up in () if self.only or not self.ladder.names else range(1, CLIMB + 1):
            ran = False
            for sizes in self.ladder.rung((plain + up, wide + up)):
                for larger in () if ran else self._follow(self._case(sizes, style), LATER):
                    yield larger
                    ran = ran or not self._refusal

    def _far(self) -> Iterator[Sizes]:
        """Yield the sizes of the rungs above the first, then of those below."""
        plain, wide = self.begin
        for up in range(1, len(PLAIN)):
            yield from self.ladder.rung((plain + up, wide + up))
            if wide and plain == 0 and up == 1:
                yield from self.ladder.rung((0, wide + up))
        for down in range(max(self.begin)):
            yield from self.ladder.rung((min(down, plain), min(down, wide)))
        if self.ladder.names:
            yield from self.ladder.small()

    def _follow(self, case: Case, most: int) -> Iterator[Case]:
        """Yield a case, and while it is refused what the messages propose: up to `most` further cases."""
        queue = [case]
        while queue:
            case = queue.pop(0)
            key = (tuple(sorted(case.sizes.items())), case.floats, case.integers, case.scale, case.salt)
            if key in self._done:
                continue
            self._done.add(key)
            self._refusal = ""
            yield case
            message = self._refusal
            if message and most > 0:
                proposals = self.wider.proposed(case.sizes, message)[:most]
                most -= len(proposals)
                cases = [self._titled(replace(case, sizes=sizes)) for sizes in proposals]
                queue = cases + queue if self._is_new(message) else queue + cases

    def _is_new(self, message: str) -> bool:
        """True for a message that did not come before, whatever its numbers."""
        form = message
        for number in numbers(message):
            form = form.replace(str(number), "#")
        fresh = form not in self._messages
        self._messages.add(form)
        return fresh

    def _carried(self, seen: Seen) -> Sizes:
        """Return the sizes for another batch: symbols that are multiples of the batch grow with it."""
        sizes = dict(seen.case.sizes)
        for head in self.heads:
            if head not in self.fixed and sizes[head] % seen.batch == 0:
                sizes[head] = sizes[head] // seen.batch * self.batch
        return sizes

    def _case(self, sizes: Mapping[str, int], style: tuple[str, str]) -> Case:
        return self._titled(Case("", {**self.outer, **sizes}, *style))

    def _titled(self, case: Case) -> Case:
        order = [*self.heads, *(name for name in case.sizes if name not in self.heads)]
        text = ", ".join(f"{name}={case.sizes[name]}" for name in order if name in case.sizes)
        return replace(case, title=text or "static shapes")
