"""The verb export: modules of PyTorch are exported one after the other, merged, and compared with the merged
file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from netfuse_onnx import arguments, edges
from netfuse_onnx.errors import FileFault, UsageFault
from netfuse_onnx.merging import Merging
from netfuse_onnx.options import Proof, checked, refuse_unknown
from netfuse_onnx.proofs import OutputProof
from netfuse_onnx.prove.trial import Progress
from netfuse_onnx.prove.values import silent
from netfuse_onnx.pytorch import exporters, models
from netfuse_onnx.pytorch.exporters import Exporter
from netfuse_onnx.pytorch.proof import TorchProof
from netfuse_onnx.report import MergeReport, Report
from netfuse_onnx.run import runtime
from netfuse_onnx.wording import renamed, renaming

if TYPE_CHECKING:
    from netfuse_onnx.pytorch.models import Modules

PROOF = frozenset(Proof.__annotations__)
PREFIX = ".netfuse-export-"


@dataclass(frozen=True, slots=True)
class ExportReport(Report):
    """The result of an export. `exporter` is dynamo or torchscript; `files` has the exported models where
    they are kept; `modules` compares each output of the merged file with that of the module, and is empty
    without proofs; `merge` is the report of the merge, with its own proofs."""

    out: str
    models: tuple[str, ...]
    exporter: str
    torch: str
    merge: MergeReport
    modules: tuple[OutputProof, ...] = ()
    files: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.merge.ok and all(row.ok for row in self.modules)


def export(
    modules: Modules,
    args: Any,
    out: str | os.PathLike[str],
    *,
    kwargs: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    exporter: str = "auto",
    opset_version: int | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
    dynamic_axes: Mapping[str, Any] | None = None,
    folder: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ExportReport:
    """Export N PyTorch modules of one class, merge them into the file `out`, and prove it equal to them.

    `modules` is a mapping {name: module}, a sequence of modules, or an iterable of either, such as a
    generator that loads one checkpoint after the other: only one module is held at a time. `args` is a tensor
    or a tuple, the example on which each is exported; `kwargs` are its keyword arguments. `exporter` is
    dynamo, torchscript, or auto: dynamo where it is available. The other arguments from `opset_version` to
    `dynamic_axes` are those of torch.onnx.export, and `options` are those of `merge` and its proofs.

    Each module is exported in evaluation mode, and every part of it is put back into its own mode afterwards.
    With verify=True, the default, the outputs of every module on the example are compared with those of the
    merged file, before it is put in place. With `folder`, the exported models are kept there as NAME.onnx:
    `verify`, `bench` and other tools take them.

    Raises NotExportable where PyTorch can't export a module, UsageFault for arguments that make no sense, and
    the errors of `merge`; ValuesDiffer also where the merged file differs from a module. `out` is then as it
    was.
    """
    refuse_unknown(_proof_of({key: options[key] for key in options if key not in MERGE}))
    called = exporters.chosen(exporter, dynamic_shapes, dynamic_axes)
    settings = Exporter(called, opset_version, input_names, output_names, dynamic_shapes, dynamic_axes)
    example = args if isinstance(args, tuple) else (args,)
    tell = progress or silent
    asked = _Export(settings, example, kwargs or {}, os.fspath(out), options, tell, progress)
    return asked.report(modules, names, folder)


MERGE: Mapping[str, Any] = {
    "io": "separate", "routing": "auto", "share": (), "combine": "", "target": "generic", "partial": False,
    "strict": False, "verify": True, "data": "auto", "tune": None, "views": False, "low_rank": None,
    "base": None, "portable": False,
}  # fmt: skip
"""The options of `merge` that an export takes, with their defaults."""


@dataclass
class _Export:
    """One export, from its checked arguments on."""

    exporter: Exporter
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: str
    options: dict[str, Any]
    tell: Progress
    progress: Progress | None
    paths: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def report(
        self, modules: Modules, names: Sequence[str] | None, folder: str | os.PathLike[str] | None
    ) -> ExportReport:
        """Export, merge, prove, keep the exported files where that is asked for."""
        import torch

        kept = None if folder is None else os.fspath(folder)
        proof = self._proof()
        with _scratch(kept) as scratch:
            self._write_all(modules, names, scratch, proof)
            shown = self._shown(kept)
            with renaming(shown):
                merged = renamed(self._merging(proof).report(), shown)
            files = _keep(self.paths, kept) if kept is not None else ()
        rows = proof.rows if proof else ()
        return ExportReport(
            self.out, tuple(self.paths), self.exporter.name, torch.__version__, merged, rows, files,
            (*self.warnings, *merged.warnings),
        )  # fmt: skip

    def _proof(self) -> TorchProof | None:
        """Return the comparison with the modules; None without proofs. Raises UsageFault before any work."""
        arguments.edge(self.options.get("io", "separate"), self.options.get("routing", "auto"))
        if not self.options.get("verify", True):
            return None
        given = self._given()
        return TorchProof(checked(edges.SEPARATE, (), given, runtime.libraries(given.get("libraries", ()))))

    def _given(self) -> Proof:
        """Return the options of the proofs."""
        return _proof_of({key: value for key, value in self.options.items() if key in PROOF})

    def _write_all(
        self, modules: Modules, names: Sequence[str] | None, scratch: str, proof: TorchProof | None
    ) -> None:
        """Export the modules one after the other, and run each on the example."""
        training: list[str] = []
        for number, (name, module) in enumerate(models.named(modules, names)):
            self.tell(f"exporting {name}", number, number + 1)
            path = os.path.join(scratch, f"{number}", f"{name}.onnx")
            with models.evaluating(module) as was_training:
                call = models.in_order(module, self.args, self.kwargs)
                if proof:
                    proof.inputs.append(models.inputs(call))
                    proof.outputs.append(_run(name, module, call))
                _make_folder(path)
                self.exporter.write(name, module, call, path)
            if was_training:
                training.append(name)
            self.paths[name] = path
        if training:
            self.warnings.append(f"Exported in evaluation mode, but was in training mode: {_some(training)}.")

    def _merging(self, proof: TorchProof | None) -> Merging:
        chosen = {**MERGE} | {key: value for key, value in self.options.items() if key in MERGE}
        chosen["share"] = tuple(chosen["share"])
        return Merging(
            paths=list(self.paths.values()), out=self.out, names=tuple(self.paths), progress=self.progress,
            proof=self._given(), accept=proof.check if proof else None, **chosen,
        )  # fmt: skip

    def _shown(self, kept: str | None) -> dict[str, str]:
        """Return the names of the temporary files in sentences: those that they get, or their models'."""
        return {
            path: f"{name}.onnx (exported)" if kept is None else os.path.join(kept, f"{name}.onnx")
            for name, path in self.paths.items()
        }


def _run(name: str, module: Any, call: models.Call) -> list[Any]:
    """Return the outputs of a module. Raises UsageFault, which names it."""
    try:
        return models.outputs(module, call)
    except Exception as error:
        raise UsageFault(
            f"The model {name} does not run on the example: {type(error).__name__}: {error}.",
            "Give `args` and `kwargs` that every module takes.",
        ) from error


def _some(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _proof_of(options: dict[str, Any]) -> Proof:
    return cast(Proof, options)


# --------------------------------------------------------------------------- files


@contextmanager
def _scratch(kept: str | None) -> Iterator[str]:
    """Give a temporary folder, inside of the one where the exported models are kept."""
    if kept is not None and not os.path.isdir(kept):
        raise FileFault(f"{kept} is not a folder.", "Create it first, or leave out `folder`.")
    try:
        scratch = tempfile.mkdtemp(prefix=PREFIX, dir=kept)
    except OSError as error:
        raise FileFault(f"No temporary folder can be made: {error}.", "Check the disk.") from error
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _make_folder(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(path))
        with open(path, "wb"):  # a name that the file system can't have
            pass
    except (OSError, ValueError) as error:
        raise FileFault(f"{os.path.basename(path)} can't be written: {error}.", "Use other names.") from error


def _keep(paths: Mapping[str, str], kept: str) -> tuple[str, ...]:
    """Move the exported models, with their data files, into the folder; an earlier export is replaced. Data
    goes first, so that a model never lacks it."""
    files = []
    for path in paths.values():
        home = os.path.dirname(path)
        for name in sorted(os.listdir(home), key=lambda name: name == os.path.basename(path)):
            os.replace(os.path.join(home, name), os.path.join(kept, name))
        files.append(os.path.join(kept, os.path.basename(path)))
    return tuple(files)
