"""The batching rules, one file per operator family. Importing this package registers them all."""

from netfuse_onnx.rules import (
    conv,
    elementwise,
    index,
    matmul,
    ml,
    norm,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    sample,
    scatter,
    shape,
    signal,
)
from netfuse_onnx.rules._registry import Option, Refuse, Site, options, table

__all__ = [
    "Option",
    "Refuse",
    "Site",
    "conv",
    "elementwise",
    "index",
    "matmul",
    "ml",
    "norm",
    "options",
    "pool",
    "quantize",
    "recurrent",
    "reduce",
    "resize",
    "sample",
    "scatter",
    "shape",
    "signal",
    "table",
]
