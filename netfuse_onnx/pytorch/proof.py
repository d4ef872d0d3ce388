"""Compares a merged file in ONNX Runtime with the modules themselves in PyTorch, on the example's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from netfuse_onnx.combining import combined
from netfuse_onnx.errors import NotProven, ValuesDiffer
from netfuse_onnx.labels import Labels
from netfuse_onnx.proofs import OutputProof, describe
from netfuse_onnx.prove.combined import EVERY
from netfuse_onnx.prove.compare import Gap, Magnitudes, compare
from netfuse_onnx.prove.judge import tolerance
from netfuse_onnx.prove.lineage import Lineage, source_lineages
from netfuse_onnx.prove.options import Options
from netfuse_onnx.run.packing import Packing
from netfuse_onnx.run.runtime import Array, RunFailed, Session, Value
from netfuse_onnx.types import Correspondence

CASE = "the example, in PyTorch"
"""The name of this case in sentences."""


@dataclass
class TorchProof:
    """The comparison of one merge. `inputs` and `outputs` have the arrays of each model, in the order of its
    own inputs and outputs; `rows` is filled in by `check`."""

    options: Options
    inputs: list[list[Array]] = field(default_factory=list)
    outputs: list[list[Array]] = field(default_factory=list)
    rows: tuple[OutputProof, ...] = ()

    def check(self, path: str, family: Correspondence, labels: Labels) -> None:
        """Run the merged file at `path` and compare every output of every model. Raises ValuesDiffer, and
        NotProven where the arguments are not the inputs of the file."""
        packing = Packing(labels)
        wanted = [self._by_name(family, m, outputs=True) for m in range(family.models)]
        try:
            feeds = packing.inputs([self._by_name(family, m) for m in range(family.models)])
            result = Session(path, self.options.runtime).run(feeds)
        except RunFailed as error:
            raise ValuesDiffer(
                f"The merged model does not run on the example: {error}.",
                "Give an example with other sizes, or verify=False.",
            ) from error
        rows = []
        for model in range(family.models):
            lines = source_lineages(family, model)
            for name, own in family.edge(model).outputs.items():
                if name not in labels.combined:
                    got, missing = packing.pick(model, name, result)
                    row = self._row(lines[own], got, wanted[model][name], missing)
                    rows.append(replace(row, model=family.names[model], output=own))
        rows += self._combined(family, wanted, result)
        self.rows = tuple(rows)
        self._refuse()

    def _combined(
        self, family: Correspondence, wanted: Sequence[Mapping[str, Array]], result: Mapping[str, Value]
    ) -> list[OutputProof]:
        rows = []
        for name, how in family.combined.items():
            want = combined(how, [each[name] for each in wanted])
            line = source_lineages(family, 0)[name]
            got = result.get(name)
            missing = "" if name in result else f"the merged model has no output {name!r}"
            rows.append(replace(self._row(line, got, want, missing), model=EVERY, output=name, combined=how))
        return rows

    def _row(self, line: Lineage, got: Value, want: Array, missing: str) -> OutputProof:
        scales = Magnitudes(None)
        if want.dtype.kind in "fV":
            scales.add(want)
        if missing:
            gap = Gap(problem=missing)
        elif line.random:
            gap = Gap() if np.shape(got) == want.shape else Gap(problem="it has another shape")  # type: ignore[arg-type]
        else:
            gap = compare(got, want, tolerance(line, want, self.options, scales=scales))
        precision = "random, shape only" if line.random else line.precision
        return OutputProof("", "", precision, CASE, **asdict(gap))

    def _by_name(self, family: Correspondence, model: int, *, outputs: bool = False) -> dict[str, Array]:
        """Return the arrays of one model by the first model's names. Exporters keep the order of arguments
        and results. Raises NotProven where their number is another one."""
        graph, edge = family.sources[model].graph, family.edge(model)
        own, twins = (graph.outputs, edge.outputs) if outputs else (graph.inputs, edge.inputs)
        values = (self.outputs if outputs else self.inputs)[model]
        if len(own) != len(values):
            what = "outputs" if outputs else "inputs"
            raise NotProven(
                f"The exported model {family.names[model]} has {len(own)} {what} ({', '.join(own)}), and the "
                f"module {len(values)} tensors: they can't be compared.",
                "Give tensors that the module uses as `args`, or verify=False.",
            )
        by_own = dict(zip(own, values, strict=True))
        return {name: by_own[mine] for name, mine in twins.items()}

    def _refuse(self) -> None:
        wrong = [row for row in self.rows if not row.ok]
        if wrong:
            worst = max(wrong, key=lambda row: (bool(row.problem), row.ratio))
            raise ValuesDiffer(
                describe(worst),
                "The exported models differ from the modules, or the tolerance is too small: rtol, atol.",
            )
