"""Merged files on OpenVINO, OpenCV and tract: right wherever the source is, and unequal sizes are an error there.

One family per runtime and I/O mode is fast; more than twenty run with the slow tests.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import samples
from onnx import TensorProto, helper
from onnx_graphsurgeon import export_onnx
from other_runtimes import MODULES, RUNTIMES, Arrays, Run

import netfuse_onnx
from netfuse_onnx.emit.emitter import Emitter
from sample_models.export import EXAMPLE, example, export_family
from sample_models.families import FAMILIES, Family, Input
from sample_models.zoo import ZOO
from sample_models.zoo_build import Architecture
from sample_models.zoo_dense import UNet

MODELS = 3
SIZES = EXAMPLE | {"height": 32, "width": 64}
UNET = Architecture("unet_sized", "segmentation", UNet, (Input("image", ("batch", 3, "height", "width")),))
"""The zoo's U-Net fixes the image's size; here it is the caller's."""

ZOO_NAMES = (
    "resnet", "mobilenet_v2", "mobilenet_v3", "densenet", "shufflenet", "convnext", "vit", "yolo", "ssd",
    "deeplab", "edsr", "dcgan", "distilbert", "gpt2", "hifigan", "wavenet", "tcn", "pointnet", "dlrm",
    "deepfm", "two_tower", "gcn", "actor_critic", "textcnn", "c3d", "t5_encoder", "gpt2_step",
)  # fmt: skip
KINDS: dict[str, tuple[Family, bool]] = {
    **{name: (family, True) for name, family in FAMILIES.items()},
    **{name: (ZOO[name].family, False) for name in ZOO_NAMES},
    UNET.name: (UNET.family, False),
}
"""Families by name, and whether they are built tiny; those of the zoo are small as they are."""

QUICK = {
    "openvino": {"mlp", UNET.name},
    "opencv": {"mlp", "cnn", UNET.name},
    "tract": {"mlp", "cnn"},
}
FLATTENED = ("bert", "distilbert", "gpt2", "gpt2_step", "t5_encoder")
"""Families whose TorchScript export flattens batch x sequence. Their other export runs on tract."""
SOURCE_FAILS = {
    ("opencv", "c3d"): "pads_begin",  # its average pool of volumes
    ("opencv", "t5_encoder"): "CV_32F or CV_64F",  # its arithmetic on integers
    **{("tract", name): "square of symbols" for name in FLATTENED},
    ("tract", "xlnet"): "Output mismatch",  # its Range of 2 * sequence numbers
    ("tract", "lstm"): "Clashing resolution",  # its LSTM at a batch above 1
    ("tract", "deeplab"): "declutter",  # its dilated convolution
    ("tract", UNET.name): "Output mismatch",  # half of a height that is a symbol, doubled
}
"""Families whose source is wrong on a runtime, or does not load, and a part of what is said: nothing is
promised of the merged file then."""

STATIC_TARGETS = {"tract"}
"""Runtimes that refuse a Reshape whose target depends on what is fed, and not on its size alone."""

PORTABLE = {("opencv", "xlnet")}
"""Families that run with --portable only: OpenCV reads no Einsum with an axis of models."""


def installed(runtime: str) -> pytest.MarkDecorator:
    """The mark that skips a test where the runtime is not installed."""
    missing = find_spec(MODULES[runtime]) is None
    return pytest.mark.skipif(missing, reason=f"{runtime} is not installed")


def cases(*more: object) -> list[Any]:
    """Every family on every runtime; what is not quick is slow."""
    return [
        pytest.param(
            runtime,
            name,
            *more,
            marks=[installed(runtime), *([] if name in QUICK[runtime] else [pytest.mark.slow])],
        )
        for runtime in RUNTIMES
        for name in KINDS
        if (runtime, name) not in SOURCE_FAILS
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exported")


def exported(name: str, folder: Path) -> list[str]:
    """The family's sources, exported once per test process. TorchScript takes a tenth of dynamo's time."""
    family, tiny = KINDS[name]
    if name in FAMILIES:
        return samples.exported(name, "torchscript", count=MODELS)
    paths = [folder / f"{name}-{m}.onnx" for m in range(MODELS)]
    if not all(path.exists() for path in paths):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sample_models.export.EXAMPLE", SIZES)
            paths = list(export_family(family, folder, count=MODELS, tiny=tiny, exporter="torchscript"))
    return [str(path) for path in paths]


def drawn(name: str, sizes: dict[str, int], model: int) -> Arrays:
    """Inputs of one model."""
    family, tiny = KINDS[name]
    values = example(family.inputs(tiny), SIZES | sizes, seed=model)
    return {key: value.numpy() for key, value in values.items()}


def fed(each: list[Arrays], paths: list[str], io: str) -> Arrays:
    """Inputs of the merged file."""
    if io == "stacked":
        return {key: np.stack([values[key] for values in each]) for key in each[0]}
    names = [Path(path).stem for path in paths]
    return {
        f"{model}/{key}": value
        for model, values in zip(names, each, strict=True)
        for key, value in values.items()
    }


def own(got: Arrays, paths: list[str], model: int, io: str) -> Arrays:
    """The results of the merged file for one model."""
    if io == "stacked":
        return {key: value[model] for key, value in got.items()}
    prefix = f"{Path(paths[model]).stem}/"
    return {key.removeprefix(prefix): value for key, value in got.items() if key.startswith(prefix)}


def agree(got: Arrays, want: Arrays, what: str) -> None:
    assert got.keys() == want.keys(), what
    for key, value in want.items():
        assert got[key].shape == value.shape, f"{key} of {what}"
        limit = samples.TOLERANCE * max(1e-6, float(np.abs(value).max()))
        np.testing.assert_allclose(got[key], value, rtol=0, atol=limit, err_msg=f"{key} of {what}")


def merged(paths: list[str], folder: Path, io: str, runtime: str, name: str) -> str:
    out = str(folder / f"merged-{io}.onnx")
    netfuse_onnx.merge(paths, out, io=io, verify=False, portable=(runtime, name) in PORTABLE)
    return out


# ------------------------------------------------------------------------ right values


@pytest.mark.parametrize("io", ["separate", "stacked"])
@pytest.mark.parametrize(("runtime", "name"), cases())
def test_each_model_gives_its_own_values(
    runtime: str, name: str, io: str, tmp_path: Path, folder: Path
) -> None:
    paths = exported(name, folder)
    each = [drawn(name, {}, m) for m in range(MODELS)]
    wants = [samples.session(path)(values) for path, values in zip(paths, each, strict=True)]
    agree(RUNTIMES[runtime](paths[0])(each[0]), wants[0], "the source")
    path = merged(paths, tmp_path, io, runtime, name)
    got = RUNTIMES[runtime](path)(fed(each, paths, io))
    for m in range(MODELS):
        agree(own(got, paths, m, io), wants[m], f"model {m}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "name"), [pytest.param(*pair, marks=installed(pair[0])) for pair in SOURCE_FAILS]
)
def test_sources_that_fail_by_themselves(runtime: str, name: str, folder: Path) -> None:
    """The list is true: a source that a runtime learns to run is tested from then on."""
    path, values = exported(name, folder)[0], drawn(name, {}, 0)
    want = samples.session(path)(values)
    with pytest.raises(Exception, match=SOURCE_FAILS[runtime, name]):
        agree(RUNTIMES[runtime](path)(values), want, "the source")


# ------------------------------------------------------------------------ unequal sizes


def unequal(name: str) -> Iterator[dict[str, int]]:
    """Sizes of one model that the others do not have: larger, 1, and as many elements in another shape."""
    family, tiny = KINDS[name]
    symbols = {dim for item in family.inputs(tiny) for dim in item.dims if isinstance(dim, str)} - {
        "past + 1"
    }
    for symbol in sorted(symbols):
        for size in (SIZES[symbol] + 1, 1):
            yield {symbol: size} | ({"past + 1": size + 1} if symbol == "past" else {})
    if {"height", "width"} <= symbols:
        yield {"height": SIZES["width"], "width": SIZES["height"]}
    if {"batch", "sequence"} <= symbols:
        yield {"batch": SIZES["sequence"], "sequence": SIZES["batch"]}


def fails(run: Run, feeds: Arrays) -> bool:
    try:
        run(feeds)
    except Exception:  # each runtime raises classes of its own, without a common base
        return True
    return False


@pytest.mark.parametrize(("runtime", "name"), cases())
def test_unequal_sizes_fail(runtime: str, name: str, tmp_path: Path, folder: Path) -> None:
    """A merged U-Net that was fed 32x64 and 64x32 once gave a wrong answer without an error."""
    paths = exported(name, folder)
    path = merged(paths, tmp_path, "separate", runtime, name)
    run = RUNTIMES[runtime](path)
    equal = [drawn(name, {}, m) for m in range(MODELS)]
    for sizes in unequal(name):
        for odd in range(MODELS):
            each = [drawn(name, sizes, m) if m == odd else equal[m] for m in range(MODELS)]
            assert fails(run, fed(each, paths, "separate")), f"accepted: {sizes} for model {odd}"
            if runtime == "opencv":  # it can't be used again after an error
                run = RUNTIMES[runtime](path)


@pytest.mark.parametrize("dims", [[2, 3], ["a", "b"]], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    "runtime", [pytest.param(name, marks=installed(name)) for name in RUNTIMES if name not in STATIC_TARGETS]
)
def test_what_is_required_holds_or_the_run_fails(runtime: str, dims: list[Any], tmp_path: Path) -> None:
    emit = Emitter("g", 2, 17, {}, ())
    emit.scope = "check"
    x, condition = emit.input("x"), emit.input("condition")
    faults = emit(
        "Where", emit("Equal", condition, emit.const([1])), emit.const([0, 0]), emit.const([-2, -2])
    )
    emit.output(emit("Relu", emit.require(x, faults)), "y")
    model = export_onnx(emit.graph, do_type_check=False, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    for field, name, dtype, shape in (
        ("input", "x", TensorProto.FLOAT, dims),
        ("input", "condition", TensorProto.INT64, [1]),
        ("output", "y", TensorProto.FLOAT, dims),
    ):
        infos = getattr(model.graph, field)
        if name != "condition":
            del infos[:]
        infos.append(helper.make_tensor_value_info(name, dtype, shape))
    path = str(tmp_path / "required.onnx")
    onnx.save(model, path)
    feeds = {"x": np.ones((2, 3), np.float32), "condition": np.array([1])}
    np.testing.assert_array_equal(RUNTIMES[runtime](path)(feeds)["y"], feeds["x"])
    assert fails(RUNTIMES[runtime](path), feeds | {"condition": np.array([0])})
