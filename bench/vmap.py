"""torch.func.vmap over the weights: what PyTorch itself offers for N models of one class, eager and compiled.

It is checked against the same modules run one by one, because the ONNX files hold other weights.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np

from netfuse_onnx.measure.contenders import Contender
from netfuse_onnx.measure.entries import Entry
from netfuse_onnx.measure.sessions import Settings
from netfuse_onnx.measure.workload import Results, Workload
from netfuse_onnx.prove.compare import BY_PRECISION, compare
from netfuse_onnx.run.runtime import RunFailed
from sample_models.families import Family

OWN = Settings(threads=0)
"""torch has its own threads: as many as there are cores."""


class Vmap(Contender):
    """All modules in one batched function, inputs and outputs as numpy arrays."""

    kind: ClassVar[str] = "vmap"
    compiled: ClassVar[bool] = False

    def __init__(self, work: Workload, family: Family, dtype: str) -> None:
        super().__init__(work, OWN)
        self.family, self.dtype = family, dtype

    def setup(self) -> None:
        try:
            self._setup()
            self.run()
        except Exception as error:  # torch raises whatever it likes, and says a lot
            first = (str(error).strip().splitlines() or [""])[0][:200]
            raise RunFailed(f"{type(error).__name__}: {first}") from error

    def _setup(self) -> None:
        import torch
        from torch.func import functional_call, stack_module_state

        from sample_models.weights import randomise

        torch.set_num_threads(self.work.cores)
        self._device = "cuda" if self.work.runtime.provider == "cuda" else "cpu"
        if self.work.tf32:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        kind = torch.float16 if self.dtype == "fp16" else torch.float32
        base = self.family.build(False).eval().to(self._device, kind)
        self._modules = []
        for model in range(self.work.models):
            randomise(base.cpu(), model)
            self._modules.append(copy.deepcopy(base).to(self._device))
        with torch.no_grad():
            params, buffers = stack_module_state(self._modules)
        skeleton = copy.deepcopy(base).to("meta")

        def one(params: Any, buffers: Any, *inputs: Any) -> Any:
            return functional_call(skeleton, (params, buffers), inputs)

        batched = torch.vmap(one, randomness="same")
        self._call = torch.compile(batched) if self.compiled else batched
        self._state = params, buffers
        self._torch = torch

    def _inputs(self) -> list[Any]:
        names = [item.name for item in self.family.inputs(False)]
        stacked = [np.stack([np.asarray(given[name]) for given in self.work.given]) for name in names]
        return [self._torch.from_numpy(array).to(self._device) for array in stacked]

    def run(self) -> list[Any]:
        with self._torch.inference_mode():
            found = self._call(*self._state, *self._inputs())
        found = found if isinstance(found, tuple) else (found,)
        return [value.cpu().numpy() for value in found]

    def results(self) -> Results:
        found = dict(zip(self.family.outputs, self.run(), strict=True))
        return [{name: value[m] for name, value in found.items()} for m in range(self.work.models)]

    def check(self, turn: int = 0) -> tuple[float, str]:
        loose = self.work.tf32 or self.dtype == "fp16"
        allowed = BY_PRECISION["float16" if loose else "float32"]
        worst = 0.0
        for model, got in enumerate(self.results()):
            with self._torch.inference_mode():
                want = self._modules[model](*(value[model] for value in self._inputs()))
            wants = want if isinstance(want, tuple) else (want,)
            for (name, value), expected in zip(got.items(), wants, strict=True):
                gap = compare(value, expected.cpu().numpy(), allowed)
                worst = max(worst, gap.ratio)
                if not gap.ok:
                    return worst, f"output {name} of model {model}: {gap.problem or gap.error}"
        return worst, ""

    def close(self) -> None:
        for name in ("_modules", "_state", "_call"):
            self.__dict__.pop(name, None)
        torch = self.__dict__.get("_torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()


class VmapCompiled(Vmap):
    """The same through torch.compile."""

    kind = "vmap, compiled"
    compiled = True


def entries(work: Workload, family: Family, dtype: str) -> list[Entry]:
    """None where torch is not installed."""
    try:
        import torch  # noqa: F401  # only whether it is there
    except ImportError:
        return []
    size = sum(work.sizes)
    eager = Entry(Vmap.kind, "torch vmap", lambda _: Vmap(work, family, dtype), (OWN,), 2 * size)
    compiled = Entry(
        VmapCompiled.kind,
        "torch vmap, compiled",
        lambda _: VmapCompiled(work, family, dtype),
        (OWN,),
        2 * size,
    )
    return [eager, compiled]
