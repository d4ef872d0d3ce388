"""merge --views: from a merged file that is staged to a bundle in its place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from netfuse_onnx import __version__
from netfuse_onnx.errors import UsageFault
from netfuse_onnx.plan.batch import batch_of
from netfuse_onnx.plans import Plan
from netfuse_onnx.prove.views import ViewProver
from netfuse_onnx.runtime import bundle as reader
from netfuse_onnx.storage import wire
from netfuse_onnx.types import Correspondence, Source
from netfuse_onnx.viewed import ViewRow, Views
from netfuse_onnx.write import bundle, staging, views, writer
from netfuse_onnx.write.regions import Index, regions, written

Tell = Callable[[str, int, int], None]


class Bundling:
    """The views of a staged merged file, which lie beside it. `family` are the models as they were matched,
    and `once` the inputs that a merged call takes once."""

    def __init__(
        self,
        staged: writer.Staged,
        plan: Plan,
        family: Correspondence,
        sources: Sequence[Source],
        once: frozenset[str],
        tell: Tell,
    ) -> None:
        """Write the views. Raises FileFault where a source can't be read, or the disk is full."""
        self.staged, self.plan, self.family, self.once = staged, plan, family, once
        data = os.path.join(staged.folder, staged.data)
        held = wire.scan(staged.model_path, threshold=0).extents if staged.data else {}
        places = {name: extent for name, extent in held.items() if extent.path == data}
        recipes = {name: recipe for name, recipe in plan.merged.recipes.items() if name in places}
        self.regions = regions(plan.family, recipes, places)
        self.writer = views.Writer(staged.folder, staged.data, Index(self.regions))
        tell("finding out if rows are computed by themselves", 0, 1)
        self.batch = batch_of(family, once)
        try:
            self.made = self.writer.write(family, sources, tell)
        except OSError as error:
            raise staging.unwritable(staged.out, error) from error

    def prover(self) -> ViewProver:
        """Return what proves the views."""
        paths = [os.path.join(self.staged.folder, made.file) for made in self.made]
        return ViewProver(paths, [not made.note for made in self.made])

    def commit(self) -> tuple[Views, tuple[str, ...]]:
        """Put the bundle in its place. Returns the report on its views, and the paths of its files. Raises
        FileFault as Staged.commit, and where the folder holds another one's file of the same name."""
        staged, made, home = self.staged, self.made, self.staged.folder
        try:
            merged = bundle.named(home, os.path.basename(staged.model_path))
            names = [*filter(None, (staged.data, self.writer.extra)), merged, *(each.file for each in made)]
            files = {name: self._file(name) for name in names}
            bundle.write_manifest(home, self._manifest(merged, files))
        except OSError as error:
            raise staging.unwritable(staged.out, error) from error
        sizes = {name: file.bytes for name, file in files.items()}
        sizes[reader.MANIFEST] = os.path.getsize(os.path.join(home, reader.MANIFEST))
        staged.commit(lambda folder, confirm: bundle.put(folder, names, confirm))
        target = os.path.dirname(staged.out)
        return self._report(merged, sizes), tuple(os.path.join(target, name) for name in sizes)

    # ------------------------------------------------------------------ contents

    def _file(self, name: str) -> reader.File:
        """Return the size and the digest of a file. Those of views are known."""
        known = {made.file: made for made in self.made}
        if name in known:
            return reader.File(known[name].size, known[name].sha256)
        path = os.path.join(self.staged.folder, name)
        return reader.File(os.path.getsize(path), reader.digest_of(path))

    def _manifest(self, merged: str, files: dict[str, reader.File]) -> dict[str, Any]:
        batch, data = self.batch, self.staged.data
        owned = {data: written(self.regions, self.family.models)} if data else {}
        if self.writer.extra:
            owned[self.writer.extra] = self.writer.regions()
        return {
            reader.KEY: reader.FORMAT,
            "version": __version__,
            "merged": merged,
            "data": data,
            "io": self.plan.io,
            "share": sorted(self.once),
            "batch": list(batch.symbols),
            "rows": list(batch.rows),
            "rows_apart": batch.mixes or True,
            "models": [self._model(model) for model in range(self.family.models)],
            "files": {name: dataclasses.asdict(file) for name, file in files.items()},
            "again": [dataclasses.asdict(row) for row in self.writer.rows.values()],
            "regions": owned,
        }

    def _model(self, model: int) -> dict[str, Any]:
        made, edge, first = self.made[model], self.family.edge(model), self.family.graph
        return {
            "name": self.family.names[model],
            "view": made.file,
            "inputs": [edge.inputs[name] for name in first.inputs],
            "outputs": [edge.outputs[name] for name in self.family.outputs if name in edge.outputs],
            "exact": not made.note,
            "note": made.note,
            "shared": made.shared,
            "again": made.again,
        }

    def _report(self, merged: str, sizes: dict[str, int]) -> Views:
        rows = [
            ViewRow(name, made.file, made.size, made.shared, made.again, not made.note, made.note)
            for name, made in zip(self.family.names, self.made, strict=True)
        ]
        base = sizes[merged] + sizes.get(self.staged.data, 0)
        return Views(
            shared=sum(row.shared for row in rows),
            again=sum(row.again for row in rows),
            stored=sum(sizes.values()) - base,
            merged=base,
            views=tuple(rows),
            weights=tuple(self.writer.rows.values()),
            files=sizes,
            rows_apart=not self.batch.mixes,
            mixes=self.batch.mixes,
            batch=self.batch.symbols,
            rows=self.batch.rows,
        )


def check(out: str, read: Sequence[str], data: str) -> None:
    """Raise UsageFault for options that do not fit a bundle, FileFault unless one can be written to the
    folder `out`."""
    if data == "single":
        raise UsageFault(
            "A bundle keeps its weights in a file of their own, which its views read.",
            "Leave out --single-file, or --views.",
        )
    if out.endswith(".onnx"):
        raise UsageFault(f"--views writes a folder, and {out} is the name of a file.", "Name a folder.")
    bundle.check_folder(out, read)
