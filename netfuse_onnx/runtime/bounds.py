"""The bounds of the queues: how many requests may wait, in all, of one model, and kept for each model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most requests that wait: in all, and of one model.

    Each model has a kept share of `max_queue`: one part for each model, and one place at least. A model that
    has less than its share waiting is never refused because of others, so requests may wait beyond
    `max_queue`, but each of these was within its model's share when it came. So of n models at most
    `max_queue + (n - 1) * share(n)` requests wait: less than 2 * max_queue, or than max_queue + n where there
    are more models than places.

    Proof: let `over` be the sum, over all models, of the requests that a model has waiting beyond its share.
    Only a request whose model has its share already adds to it, which enters where fewer than `max_queue`
    wait; then at most `max_queue` wait with it, a whole share of them within that model's share, so
    over <= max_queue - share. All other requests that wait are within the shares, at most n * share. While a
    swap has requests waiting in old files as well, their models' shares are added.
    """

    max_queue: int = 1024
    max_queue_per_model: int = 256

    def share(self, models: int) -> int:
        """Return how many requests of each of so many models have a kept place."""
        return max(1, self.max_queue // models)

    def refuse(self, own: int, waiting: int, models: int) -> str:
        """Return the reason why a request can't wait, or ''. `own` requests of its model wait already, and
        `waiting` in all."""
        if own >= self.max_queue_per_model:
            return f"{own} requests of this model wait already, the most that it may have"
        if waiting >= self.max_queue and own >= (share := self.share(models)):
            return (
                f"{waiting} requests wait already, which fill the queue, {own} of them of this model, whose "
                f"share is {share}"
            )
        return ""
