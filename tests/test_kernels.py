"""The table of ONNX Runtime's CUDA kernels."""

from __future__ import annotations

import pytest
from onnx import TensorProto, defs

from netfuse_onnx.ops.kernels import cuda_kernels, runs_on_cuda
from netfuse_onnx.ops.schemas import EXPERIMENTAL, OF_THE_RUNTIME

F, F16, I8, U8, I64 = (getattr(TensorProto, n) for n in ("FLOAT", "FLOAT16", "INT8", "UINT8", "INT64"))


@pytest.mark.parametrize(
    ("key", "opset", "inputs", "outputs", "runs"),
    [
        ("MatMul", 17, [F, F], [F], True),
        ("MatMul", 17, [I64, I64], [I64], False),
        ("MatMul", 8, [F16, F16], [F16], True),
        ("Attention", 22, [F, F, F], [F], False),
        ("Attention", 23, [F, F, F], [F], True),
        ("com.microsoft.FusedConv", 1, [F, F, F], [F], True),
        ("com.microsoft.FusedConv", 1, [F16, F16], [F16], False),
        ("MatMulInteger", 17, [I8, I8], [], True),
        ("MatMulInteger", 17, [U8, I8], [], False),
        ("QuantizeLinear", 17, [F, F, U8], [U8], True),
        ("QuantizeLinear", 17, [F16, F16, U8], [U8], False),
        ("QLinearConv", 17, [], [], False),
        ("DynamicQuantizeLinear", 17, [F], [U8], False),
        ("ai.onnx.ml.TreeEnsembleRegressor", 3, [F], [F], False),
        ("com.example.Unheard", 1, [], [], False),
    ],
)
def test_known_kernels(key: str, opset: int, inputs: list[int], outputs: list[int], runs: bool) -> None:
    """Operators, element types and versions that the runtime itself was seen to place."""
    assert runs_on_cuda(key, opset, inputs, outputs) is runs


def test_an_unknown_type_rules_nothing_out() -> None:
    """A type that is not known may be one that the kernel takes."""
    assert runs_on_cuda("MatMul", 17, [0, F])
    assert not runs_on_cuda("MatMul", 17, [0, I64])


def test_a_kernel_without_a_last_version_is_for_its_first_alone() -> None:
    """A later version of the operator may mean something else."""
    (row,) = [row for row in cuda_kernels()["MatMul"] if row.last is None]
    assert row.takes_version(13)
    assert not row.takes_version(14)
    assert not row.takes_version(12)


def test_every_row_is_of_an_operator_and_names_element_types() -> None:
    """A misspelt type would be 0, which is `unknown`."""
    standard = {schema.name for schema in defs.get_all_schemas()}
    rows = cuda_kernels()
    assert len(rows) > 200
    assert {key for key in rows if "." not in key} - standard <= RUNTIME_ONLY
    for key, kernels in rows.items():
        for row in kernels:
            kinds = set().union(*row.inputs.values(), *row.outputs.values())
            assert 0 not in kinds, key
            assert row.last is None or row.first <= row.last


RUNTIME_ONLY = EXPERIMENTAL.keys() | OF_THE_RUNTIME | {"DynamicSlice"}
"""Operators of the default domain that ONNX Runtime has and onnx has not."""
