"""export: modules of PyTorch become one merged file that gives what each module gives."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import netfuse_onnx
from netfuse_onnx.errors import FileFault, NotEquivalent, NotExportable, NotProven, UsageFault, ValuesDiffer
from netfuse_onnx.pytorch import exporters

SCRIPT = {"exporter": "torchscript", "input_names": ["x"], "output_names": ["y"]}
"""The faster of the two exporters: a twentieth of a second for such modules."""


class Mlp(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, width), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu(self.one(x)))


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(), nn.Linear(8, 5)
        self.norm.running_mean = torch.randn(8)
        self.norm.running_var = torch.rand(8) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


class TwoIn(nn.Module):
    """Its arguments are of two sizes, and it gives two results of two types."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor, mask: Tensor, scale: Tensor | None = None) -> dict[str, Tensor]:
        y = x * self.weight + mask
        return {"y": y if scale is None else y * scale, "most": y.argmax(-1)}


def several(kind: Callable[[], nn.Module], names: str = "ab") -> dict[str, nn.Module]:
    found = {}
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        found[name] = kind().eval()
    return found


def given(path: Path, feeds: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path))
    return dict(zip([port.name for port in session.get_outputs()], session.run(None, feeds), strict=True))


def right(path: Path, modules: dict[str, nn.Module], x: Tensor) -> None:
    """The merged file with separate inputs gives what the modules give."""
    result = given(path, {f"{name}/x": x.numpy() for name in modules})
    for name, module in modules.items():
        with torch.no_grad():
            np.testing.assert_allclose(result[f"{name}/y"], module(x).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.quick
def test_modules_by_name(tmp_path: Path) -> None:
    modules, out, x = several(Mlp), tmp_path / "m.onnx", torch.randn(2, 8)
    report = netfuse_onnx.export(modules, x, out, dynamic_axes={"x": {0: "batch"}}, **SCRIPT)
    assert report.ok and report.merge.ok and report.warnings == ()
    assert [(row.model, row.output) for row in report.modules] == [("a", "y"), ("b", "y")]
    assert report.merge.sources == ("a.onnx (exported)", "b.onnx (exported)")
    assert "netfuse-export" not in str(report.to_json())
    right(out, modules, torch.randn(3, 8))
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_the_dynamo_exporter_is_the_default(tmp_path: Path) -> None:
    modules, out = several(Mlp), tmp_path / "m.onnx"
    batch = torch.export.Dim("batch")
    report = netfuse_onnx.export(
        modules, torch.randn(2, 8), out, output_names=["y"], dynamic_shapes=({0: batch},)
    )
    assert (report.exporter, report.ok) == ("dynamo", True)
    right(out, modules, torch.randn(5, 8))


def test_training_mode_is_left_for_the_export_alone(tmp_path: Path) -> None:
    modules, x = several(Cnn), torch.randn(2, 3, 9, 9)
    for module in modules.values():
        module.train()
        module.norm.eval()  # a part that is frozen stays so
    before = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in modules.items()}
    report = netfuse_onnx.export(modules, x, tmp_path / "m.onnx", **SCRIPT)
    assert report.warnings[0] == "Exported in evaluation mode, but was in training mode: a, b."
    for name, module in modules.items():
        assert module.training and module.drop.training and not module.norm.training
        assert all(torch.equal(value, before[name][key]) for key, value in module.state_dict().items())
        module.eval()
    right(tmp_path / "m.onnx", modules, x)


def test_one_module_is_held_at_a_time(tmp_path: Path) -> None:
    """One module that gets the weights of one checkpoint after the other, as a generator."""
    checkpoints = [module.state_dict() for module in several(Mlp, "abc").values()]

    def loaded() -> Iterator[tuple[str, nn.Module]]:
        module = Mlp()
        for name, state in zip("abc", checkpoints, strict=True):
            module.load_state_dict(state)
            yield name, module

    assert netfuse_onnx.export(loaded(), torch.randn(2, 8), tmp_path / "m.onnx", **SCRIPT).ok
    right(tmp_path / "m.onnx", several(Mlp, "abc"), torch.randn(2, 8))


def test_names(tmp_path: Path) -> None:
    modules, x, out = list(several(Mlp).values()), torch.randn(1, 8), tmp_path / "m.onnx"
    assert netfuse_onnx.export(modules, x, out, **SCRIPT).models == ("model-0", "model-1")
    assert netfuse_onnx.export(modules, x, out, names=["p", "q"], **SCRIPT).models == ("p", "q")


@pytest.mark.parametrize("io", ["stacked", "selected", "routed"])
def test_options_of_the_merge(tmp_path: Path, io: str) -> None:
    modules, out = several(Mlp, "abc"), tmp_path / "m.onnx"
    axes = {"x": {0: "batch"}, "y": {0: "batch"}}
    report = netfuse_onnx.export(modules, torch.randn(2, 8), out, io=io, dynamic_axes=axes, **SCRIPT)
    assert len(report.modules) == 3 and report.ok
    assert report.merge.io == io or io == "routed"


def test_a_combined_output_and_a_shared_input(tmp_path: Path) -> None:
    modules, out, x = several(Mlp, "abc"), tmp_path / "m.onnx", torch.randn(2, 8)
    report = netfuse_onnx.export(modules, x, out, share=["x"], combine="mean", **SCRIPT)
    assert [(row.model, row.combined) for row in report.modules] == [("all models", "mean")]
    with torch.no_grad():
        want = torch.stack([module(x) for module in modules.values()]).mean(0)
    np.testing.assert_allclose(given(out, {"x": x.numpy()})["y"], want.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("exporter", ["torchscript", pytest.param("dynamo", marks=pytest.mark.slow)])
def test_keyword_arguments_come_in_the_order_of_forward(tmp_path: Path, exporter: str) -> None:
    kwargs = {"scale": torch.rand(8), "mask": torch.randn(8)}
    report = netfuse_onnx.export(
        several(TwoIn), torch.randn(2, 8), tmp_path / "m.onnx", kwargs=kwargs, exporter=exporter
    )
    assert report.ok and len(report.modules) == 4


def test_kept_files_are_the_sources(tmp_path: Path) -> None:
    modules, out, kept = several(Mlp), tmp_path / "m.onnx", tmp_path / "kept"
    with pytest.raises(FileFault, match="is not a folder"):
        netfuse_onnx.export(modules, torch.randn(2, 8), out, folder=kept, **SCRIPT)
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    for _ in range(2):
        report = netfuse_onnx.export(modules, torch.randn(2, 8), out, folder=kept, **SCRIPT)
    assert report.files == report.merge.sources == (str(kept / "a.onnx"), str(kept / "b.onnx"))
    assert sorted(path.name for path in kept.iterdir()) == ["a.onnx", "b.onnx", "mine.txt"]
    assert netfuse_onnx.digests(str(out), report.files).ok
    assert netfuse_onnx.verify(str(out), report.files).ok


# --------------------------------------------------------------------------- no


def test_a_merged_file_that_differs_from_a_module_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exporter that changes a weight: the proofs of the merge hold, that against the modules does not."""
    out, kept, write = tmp_path / "m.onnx", tmp_path / "kept", exporters.Exporter.write
    kept.mkdir()

    def wrong(self: Any, model: str, module: Any, call: Any, path: str) -> None:
        with torch.no_grad():
            module.two.bias[1] += 0.5 * (model == "b")
        write(self, model, module, call, path)

    monkeypatch.setattr(exporters.Exporter, "write", wrong)
    with pytest.raises(
        ValuesDiffer, match=r"Output y of model b differs \(the example, in PyTorch\) at \[\d, 1\]"
    ):
        netfuse_onnx.export(several(Mlp), torch.randn(2, 8), out, folder=kept, **SCRIPT)
    assert [*tmp_path.iterdir()] == [kept]
    assert [*kept.iterdir()] == []
    report = netfuse_onnx.export(several(Mlp), torch.randn(2, 8), out, verify=False, **SCRIPT)
    assert report.modules == () and out.exists()


class Printing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            raise RuntimeError("not today")
        return x


class Hostile(nn.Module):
    """It runs, and neither exporter can trace it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.lstsq(x, self.weight[:, None]).solution


def test_an_export_that_fails_names_the_model(tmp_path: Path) -> None:
    modules = {"good": Hostile(), "bad": Hostile()}
    with pytest.raises(NotExportable, match="torchscript exporter can't export the model good: ") as caught:
        netfuse_onnx.export(modules, torch.randn(8, 8), tmp_path / "m.onnx", exporter="torchscript")
    assert "exporter='dynamo'" in caught.value.hint
    assert caught.value.__cause__ is not None
    assert "\n" not in caught.value.message
    assert [*tmp_path.iterdir()] == []


def test_a_module_that_does_not_run_names_the_model(tmp_path: Path) -> None:
    with pytest.raises(UsageFault, match="The model a does not run on the example: RuntimeError: not today"):
        netfuse_onnx.export({"a": Printing()}, torch.ones(2), tmp_path / "m.onnx", **SCRIPT)


def test_modules_of_two_classes_are_no_family(tmp_path: Path) -> None:
    modules = {"a": Mlp().eval(), "b": Mlp(12).eval()}
    with pytest.raises(NotEquivalent) as caught:
        netfuse_onnx.export(modules, torch.randn(2, 8), tmp_path / "m.onnx", **SCRIPT)
    assert "b.onnx (exported)" in str(caught.value) and "netfuse-export" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"modules": Mlp()}, "is not several modules"),
        ({"modules": []}, "0 modules were given"),
        ({"modules": [Mlp(), 3]}, "Model 1 is of type int"),
        ({"modules": {"a/b": Mlp()}}, "can't be called 'a/b'"),
        ({"modules": {"a": Mlp()}, "names": ["b"]}, "a mapping and by `names`"),
        ({"modules": [("a", Mlp()), ("a", Mlp())]}, "Model 1 can't be called 'a'"),
        ({"names": ["a"]}, "can't be called ''"),
        ({"names": ["a", "b", "c"]}, "2 modules were given, and 3 names"),
        ({"exporter": "onnx"}, "There is no exporter 'onnx'"),
        ({"dynamic_shapes": ({},)}, "dynamic_shapes are for dynamo"),
        ({"dynamic_shapes": ({},), "dynamic_axes": {}}, "in two ways"),
        ({"args": (torch.ones(1, 8), torch.ones(1))}, "does not take these arguments"),
        ({"io": "sideways"}, "There is no io 'sideways'"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    call: dict[str, Any] = {"modules": [Mlp(), Mlp()], "args": torch.ones(1, 8), **SCRIPT} | changes
    with pytest.raises(UsageFault) as caught:
        netfuse_onnx.export(call.pop("modules"), call.pop("args"), tmp_path / "m.onnx", **call)
    assert said in caught.value.message
    assert [*tmp_path.iterdir()] == []


def test_an_argument_that_no_verb_has(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="bogus"):
        netfuse_onnx.export([Mlp()], torch.ones(1, 8), tmp_path / "m.onnx", bogus=1)


def test_an_input_that_the_graph_does_not_have_is_not_proven(tmp_path: Path) -> None:
    """Exporters may drop or add inputs; then nobody knows which tensor is which."""

    class Unused(Mlp):
        def forward(self, x: Tensor, more: list[Tensor]) -> Tensor:  # type: ignore[override]
            return super().forward(x)

    x, out = torch.randn(2, 8), tmp_path / "m.onnx"
    with pytest.raises(NotProven, match="can't be compared"):
        netfuse_onnx.export([Unused(), Unused()], (x, [x]), out, exporter="torchscript")
    assert not out.exists()


def test_the_package_and_export_itself_load_no_torch_before_they_need_it() -> None:
    code = "import sys, netfuse_onnx; netfuse_onnx.export; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --------------------------------------------------------------------------- transformers


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(
            hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
        )
    )


class Wrapped(nn.Module):
    """TorchScript can't trace the decorated forward of transformers itself."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = bert()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        found = self.bert(input_ids, attention_mask=attention_mask)
        return found.last_hidden_state, found.pooler_output


@pytest.mark.parametrize(
    ("kind", "exporter"), [(Wrapped, "torchscript"), pytest.param(bert, "dynamo", marks=pytest.mark.slow)]
)
def test_bert(tmp_path: Path, kind: Callable[[], nn.Module], exporter: str) -> None:
    """Arguments by name, and results in a class of transformers."""
    kwargs = {"attention_mask": torch.ones(2, 7, dtype=torch.long), "input_ids": torch.randint(0, 50, (2, 7))}
    report = netfuse_onnx.export(several(kind), (), tmp_path / "m.onnx", kwargs=kwargs, exporter=exporter)
    assert report.ok and len(report.modules) == 4
