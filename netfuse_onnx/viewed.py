"""The report on the views of a bundle: how many bytes of each source lie in the data of the merged file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AgainRow:
    """A weight that the data of the merged file does not hold as the sources do, so that it is stored once
    more: its name in the views, its bytes in one of them, the reason, the number of views that read it, and
    the number of different copies that are stored. `kept` says where: `data` is the data file of the views,
    `graph` each view itself."""

    weight: str
    bytes: int
    why: str
    kept: str
    views: int = 0
    copies: int = 0


@dataclass(frozen=True, slots=True)
class ViewRow:
    """One view. `size` is that of its file; `shared` and `again` are bytes of weights, as in Views. `exact`
    says that it gives what its source gives bit for bit; else `note` says how it differs."""

    model: str
    file: str
    size: int
    shared: int
    again: int
    exact: bool = True
    note: str = ""


@dataclass(frozen=True, slots=True)
class Views:
    """The views of a bundle. Bytes of weights, summed over the views: `shared` lie in the data of the merged
    file, `again` do not. `stored` are the bytes that the bundle takes beyond the merged file and its data:
    views, their data file and the manifest. `merged` are those of the merged file and its data.

    `rows_apart` says if each row of a batch is proven to be computed by itself, and `mixes` why not; `batch`
    has the symbols of the batch axis, `rows` the inputs that have it.
    """

    shared: int
    again: int
    stored: int
    merged: int
    views: tuple[ViewRow, ...]
    weights: tuple[AgainRow, ...] = ()
    files: Mapping[str, int] = field(default_factory=dict)
    """The bytes of every file of the bundle, by name."""
    rows_apart: bool = False
    mixes: str = ""
    batch: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """The part of the weights' bytes that lie in the data of the merged file, from 0 to 1."""
        total = self.shared + self.again
        return self.shared / total if total else 0.0
