"""A time over a size, kept right by the calls that run: where they lie, and where none tells for long."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

FADE = 1e-4
"""With each own call the estimate of merged calls fades by this part, and with the next merged call it is
back. So merged calls that seemed too slow are tried again, once in thousands of calls. So are wide calls, and
own calls of sizes that were not right lately, the sooner the less slow they seemed."""
LATELY = 100
"""Calls of a form and kind after which a time that was right is no longer known to be."""


class Curve:
    """A time over a size: straight lines between the sizes that were timed.

    Before the first size it is the first time. Behind the last it goes on with the slope of the last two, or
    in proportion where there is one.
    """

    def __init__(self, points: Mapping[int, float]) -> None:
        """Take {size: seconds}, at least one."""
        self._sizes = sorted(points)
        self._times = [max(points[size], 1e-9) for size in self._sizes]
        self._faded = [1.0] * len(self._times)
        """The parts of the times that are left of them."""
        self._known: dict[int, float] = {}
        self._calls = 0
        self._right: dict[int, int] = {}
        """The last call, by place, that took about as long as the time of that place lets expect."""

    def __call__(self, size: int) -> float:
        known = self._known.get(size)
        if known is None:
            known = self._known[size] = sum(
                weight * self._times[place] * self._faded[place] for place, weight in self._weights(size)
            )
        return known

    def points(self) -> dict[int, float]:
        """Return {size: seconds} of the sizes that were timed."""
        return dict(zip(self._sizes, self._times, strict=True))

    def scaled(self, factor: float) -> Curve:
        """Return this curve with all times multiplied by a factor."""
        return Curve({size: seconds * factor for size, seconds in self.points().items()})

    def note(self, size: int, right: bool) -> None:
        """Take note of a call that took about as long as expected, or not."""
        self._calls += 1
        for place, weight in self._weights(size):
            if abs(weight) >= 0.5 and right:
                self._right[place] = self._calls
            elif abs(weight) >= 0.5:
                self._right.pop(place, None)

    def fade(self) -> None:
        """Let the times of sizes that were not right lately seem shorter, but that of the smallest."""
        for place in range(1, len(self._times)):
            if not self._was_right(place):
                self._faded[place] *= 1 - FADE
        self._known.clear()

    def back(self, size: int, seconds: float) -> float:
        """Take the fading of the times beside a size back, or make it theirs where a call of it took no
        longer. Return the part that was left where it was taken back, else 1."""
        places = [place for place, _ in self._weights(size)]
        left = min(self._faded[place] for place in places)
        holds = seconds <= self(size)
        for place in places:
            self._times[place] *= self._faded[place] if holds else 1.0
            self._faded[place] = 1.0
        self._known.clear()
        return 1.0 if holds else left

    def _was_right(self, place: int) -> bool:
        return self._right.get(place, -LATELY) > self._calls - LATELY

    def shift(self, factor: float, *, every: bool = False) -> None:
        """Multiply all times by a factor, or all but those that were right lately."""
        for place in range(len(self._times)):
            if every or not self._was_right(place):
                self._times[place] *= factor
        self._known.clear()

    def move(self, size: int, ratio: float, step: float) -> None:
        """Multiply the times beside a size by (1 - step) + step * ratio, the nearer the more."""
        for place, weight in self._weights(size):
            self._times[place] *= 1 + step * min(1.0, abs(weight)) * (ratio - 1)
        self._known.clear()

    def _weights(self, size: int) -> Sequence[tuple[int, float]]:
        """Return the places whose times make that of a size, with their weights."""
        sizes = self._sizes
        place = bisect_left(sizes, size)
        if place == 0 or (place < len(sizes) and sizes[place] == size):
            return ((place, 1.0),)
        if place == len(sizes):
            if place == 1:
                return ((0, size / sizes[0]),)
            if self._times[-1] <= self._times[-2]:
                return ((place - 1, size / sizes[-1]),)
            place -= 1
        low, high = sizes[place - 1], sizes[place]
        part = (size - low) / (high - low)
        return ((place - 1, 1 - part), (place, part))
