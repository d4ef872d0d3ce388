"""The schemas of operators by opset, in a form that is quick to ask many times."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import AttributeProto, defs
from onnx import AttributeProto as A

_KIND: Mapping[str, int] = dict(AttributeProto.AttributeType.items())

MICROSOFT, ML = "com.microsoft", "ai.onnx.ml"
"""The domains of ONNX Runtime's own operators, and of classical machine learning."""

OWN = "netfuse_onnx"
"""The domain of operators that only plans have (rules/combine.py): no file holds them."""

STANDARD = frozenset({"", ML, "ai.onnx.preview.training"})
"""Domains whose operators are all known: what is not there does not exist."""

_READ: Mapping[int, Callable[[AttributeProto], Any]] = {
    A.FLOAT: lambda a: a.f,
    A.INT: lambda a: a.i,
    A.STRING: lambda a: a.s,
    A.TENSOR: lambda a: a.t,
    A.SPARSE_TENSOR: lambda a: a.sparse_tensor,
    A.GRAPH: lambda a: a.g,
    A.TYPE_PROTO: lambda a: a.tp,
    A.FLOATS: lambda a: list(a.floats),
    A.INTS: lambda a: list(a.ints),
    A.STRINGS: lambda a: list(a.strings),
    A.TENSORS: lambda a: list(a.tensors),
    A.SPARSE_TENSORS: lambda a: list(a.sparse_tensors),
    A.GRAPHS: lambda a: list(a.graphs),
    A.TYPE_PROTOS: lambda a: list(a.type_protos),
}

_STILL_RUNS = {"GroupNormalization"}
"""Withdrawn at opset 18 and redefined at 21; exporters write it, ONNX Runtime (1.32) runs it."""

OF_THE_RUNTIME = frozenset({"LayerNormalization", "SimplifiedLayerNormalization"})
"""Operators that ONNX Runtime (1.32) has in the default domain at every opset; its optimisers write them."""

EXPERIMENTAL: Mapping[str, int] = {
    **dict.fromkeys(("Affine", "Crop", "ImageScaler", "ParametricSoftplus", "Scale", "ScaledTanh"), 10),
    "MeanVarianceNormalization": 9,
}
"""Operators of the time before opset 10 that no schema tells of, and the opset that ended them. ONNX Runtime
(1.32) runs them, and converters from Core ML write them."""


_OF_THE_RUNTIME = Path(__file__).with_name("runtime_defaults.json")
"""The default values of attributes of com.microsoft, com.microsoft.nchwc and OF_THE_RUNTIME, as the schemas
of ONNX Runtime 1.32 give them. Text stands for bytes."""


_INPUTS_OF_THE_RUNTIME = Path(__file__).with_name("runtime_inputs.json")
"""The input names of the same operators, as the schemas of ONNX Runtime 1.32 give them. `?` marks an input
that may be absent, `*` one that stands for any number."""


@dataclass(frozen=True, slots=True)
class Facts:
    """One operator at one opset. `deprecated`: it was withdrawn, and ONNX Runtime refuses it."""

    since: int
    deprecated: bool
    inputs: tuple[int, int]  # least, most
    input_names: tuple[str, ...]
    outputs: tuple[int, int]
    variadic_outputs: bool
    kinds: Mapping[str, int]  # attribute -> AttributeProto.AttributeType
    required: frozenset[str]
    defaults: Mapping[str, Any] = field(repr=False)


def canonical(domain: str) -> str:
    """The default domain has two spellings; this package uses ''."""
    return "" if domain == "ai.onnx" else domain


def value_of(attribute: AttributeProto) -> Any:
    """The plain Python value, as onnx.helper.get_attribute_value gives it, some times faster."""
    read = _READ.get(attribute.type)
    return read(attribute) if read else onnx.helper.get_attribute_value(attribute)


@functools.cache
def facts(op: str, domain: str, version: int) -> Facts | None:
    """None where neither the standard nor the installed onnx package knows the operator."""
    try:
        schema = defs.get_schema(op, version, domain)
    except defs.SchemaError:
        return None
    attributes = schema.attributes
    variadic = defs.OpSchema.FormalParameterOption.Variadic
    return Facts(
        since=schema.since_version,
        deprecated=schema.deprecated and op not in _STILL_RUNS,
        inputs=(schema.min_input, schema.max_input),
        input_names=tuple(formal.name for formal in schema.inputs),
        outputs=(schema.min_output, schema.max_output),
        variadic_outputs=bool(schema.outputs) and schema.outputs[-1].option == variadic,
        kinds={name: _KIND[str(a.type).rpartition(".")[2]] for name, a in attributes.items()},
        required=frozenset(name for name, a in attributes.items() if a.required),
        defaults={name: value_of(a.default_value) for name, a in attributes.items() if a.default_value.name},
    )


def defaults(op: str, domain: str, version: int) -> Mapping[str, Any]:
    """The values of attributes that are absent, as far as onnx's schema or ONNX Runtime's names them."""
    known = facts(op, domain, version)
    return known.defaults if known else _defaults_of_the_runtime().get(f"{domain}.{op}".removeprefix("."), {})


def input_names(op: str, domain: str, version: int) -> tuple[str, ...]:
    """The names of an operator's inputs in order, the last of which may stand for any number; () where
    neither onnx nor ONNX Runtime has a schema of it."""
    known = facts(op, domain, version)
    marked = () if known else _inputs_of_the_runtime().get(f"{domain}.{op}".removeprefix("."), ())
    return known.input_names if known else tuple(name.rstrip("?*") for name in marked)


def runtime_operators() -> list[str]:
    """The operators that only ONNX Runtime has, such as `com.microsoft.BiasGelu`."""
    return [key for key in _inputs_of_the_runtime() if "." in key]


def input_count(key: str) -> tuple[int, int | None] | None:
    """The least and the most inputs of an operator that only ONNX Runtime has, such as
    `com.microsoft.BiasGelu`; None for any number. None for an operator that it does not have."""
    marked = _inputs_of_the_runtime().get(key)
    if marked is None:
        return None
    least = max((k + 1 for k, name in enumerate(marked) if "?" not in name), default=0)
    return least, None if marked[-1:] and "*" in marked[-1] else len(marked)


@functools.cache
def _inputs_of_the_runtime() -> Mapping[str, tuple[str, ...]]:
    rows: dict[str, list[str]] = json.loads(_INPUTS_OF_THE_RUNTIME.read_text())
    return {key: tuple(row) for key, row in rows.items()}


@functools.cache
def _defaults_of_the_runtime() -> Mapping[str, Mapping[str, Any]]:
    rows: dict[str, dict[str, Any]] = json.loads(_OF_THE_RUNTIME.read_text())
    return {
        key: {name: value.encode() if isinstance(value, str) else value for name, value in row.items()}
        for key, row in rows.items()
    }
