"""Quantised and optimised variants of exported models, made with ONNX Runtime's own tools.

Each file is calibrated, quantised and optimised by itself, as a user's files are, so scales, zero points and
weights differ between the models of a family. `derived(paths, kind, family, out)` writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter
import onnxruntime as ort
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from sample_models.export import example
from sample_models.families import Family, Input

Make = Callable[[Path, Path, Family], None]
"""Writes one variant of the model in the first path to the second."""

CALIBRATION = ({"batch": 1, "sequence": 9}, {"batch": 2, "sequence": 17}, {"batch": 3, "sequence": 5})


class Calibration(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Random inputs of the family's tiny size."""

    def __init__(self, inputs: tuple[Input, ...]) -> None:
        self._cases: Iterator[dict[str, Tensor]] = iter(
            [example(inputs, sizes, seed) for seed, sizes in enumerate(CALIBRATION)]
        )

    def get_next(self) -> dict[str, Any] | None:
        case = next(self._cases, None)
        return None if case is None else {name: value.numpy() for name, value in case.items()}


def derived(paths: Sequence[Path], kind: str, family: Family, out: Path) -> Iterator[Path]:
    """Write the `kind` variant of each model to `out`, yielding each path when it is complete."""
    out.mkdir(parents=True, exist_ok=True)
    for path in paths:
        target = out / f"{path.stem}-{kind}.onnx"
        with _quiet():
            VARIANTS[kind](path, target, family)
        yield target


# --------------------------------------------------------------------------- int8


def _static(form: Any, activations: Any, weights: Any, *, per_channel: bool = False) -> Make:
    def make(source: Path, target: Path, family: Family) -> None:
        ready = _prepared(source, target)
        quantize_static(
            ready,
            target,
            Calibration(family.inputs(True)),
            quant_format=form,
            activation_type=activations,
            weight_type=weights,
            per_channel=per_channel,
        )
        ready.unlink()

    return make


def _dynamic(weights: Any, *, per_channel: bool = False) -> Make:
    def make(source: Path, target: Path, family: Family) -> None:
        ready = _prepared(source, target)
        quantize_dynamic(ready, target, weight_type=weights, per_channel=per_channel)
        ready.unlink()

    return make


def _prepared(source: Path, target: Path) -> Path:
    """With shapes and folded constants, as the tools want it."""
    ready = target.with_suffix(".ready.onnx")
    quant_pre_process(source, ready, skip_symbolic_shape=True)
    return ready


# --------------------------------------------------------------------------- few bits per weight


def _blocks(bits: int, *, symmetric: bool, block: int = 32, form: Any = QuantFormat.QOperator) -> Make:
    def make(source: Path, target: Path, family: Family) -> None:
        model = onnx.load(source)
        if form == QuantFormat.QDQ:  # the tool raises the opset, and leaves the operators as they were
            model = onnx.version_converter.convert_version(model, 21)
        quantizer = MatMulNBitsQuantizer(
            model, bits=bits, block_size=block, is_symmetric=symmetric, quant_format=form
        )
        quantizer.process()
        onnx.save(quantizer.model.model, target)

    return make


# --------------------------------------------------------------------------- ONNX Runtime's optimisers


def _saved(level: str) -> Make:
    """Return what a session writes to `optimized_model_filepath`."""

    def make(source: Path, target: Path, family: Family) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 3
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return make


def _then(first: Make, second: Make) -> Make:
    """One tool after another."""

    def make(source: Path, target: Path, family: Family) -> None:
        between = target.with_suffix(".between.onnx")
        first(source, between, family)
        second(between, target, family)
        between.unlink()

    return make


def _transformer(model_type: str) -> Make:
    """onnxruntime.transformers.optimizer, which fuses attention, embeddings and skips."""

    def make(source: Path, target: Path, family: Family) -> None:
        from onnxruntime.transformers.optimizer import optimize_model

        optimised = optimize_model(
            str(source), model_type=model_type, num_heads=4, hidden_size=HIDDEN[family.name], opt_level=0
        )
        optimised.save_model_to_file(str(target))

    return make


HIDDEN = {"bert": 32, "gpt2": 32}

VARIANTS: dict[str, Make] = {
    "qdq": _static(QuantFormat.QDQ, QuantType.QInt8, QuantType.QInt8),
    "qdq-u8": _static(QuantFormat.QDQ, QuantType.QUInt8, QuantType.QInt8, per_channel=True),
    "qoperator": _static(QuantFormat.QOperator, QuantType.QUInt8, QuantType.QInt8),
    "qoperator-s8": _static(QuantFormat.QOperator, QuantType.QInt8, QuantType.QInt8, per_channel=True),
    "dynamic": _dynamic(QuantType.QUInt8),
    "dynamic-s8": _dynamic(QuantType.QInt8, per_channel=True),
    "matmul4": _blocks(4, symmetric=True),
    "matmul4-zp": _blocks(4, symmetric=False),
    "matmul8": _blocks(8, symmetric=False),
    "matmul4-qdq": _blocks(4, symmetric=True, form=QuantFormat.QDQ),
    "ort-basic": _saved("BASIC"),
    "ort-extended": _saved("EXTENDED"),
    "ort-all": _saved("ALL"),
    "qdq-u8-ort-all": _then(
        _static(QuantFormat.QDQ, QuantType.QUInt8, QuantType.QInt8, per_channel=True), _saved("ALL")
    ),
    "dynamic-ort-all": _then(_dynamic(QuantType.QUInt8), _saved("ALL")),
    "transformer-bert": _transformer("bert"),
    "transformer-gpt2": _transformer("gpt2"),
}


@contextmanager
def _quiet() -> Iterator[None]:
    """The tools report on their work through the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


# --------------------------------------------------------------------------- decoders


class Decoder(nn.Module):
    """ids [B, S] -> logits [B, S, V], without a cache."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        everything = torch.ones_like(input_ids)  # without a mask, transformers looks for packed sequences
        logits: Tensor = self.model(input_ids, attention_mask=everything, use_cache=False).logits
        return logits


def _gpt2(tiny: bool) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=99, n_positions=64, n_embd=32, n_layer=2, n_head=4, attn_implementation="eager"
    )
    return Decoder(GPT2LMHeadModel(config))


def _llama(tiny: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=99,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        attn_implementation="eager",
    )
    return Decoder(LlamaForCausalLM(config))


def _ids(tiny: bool) -> tuple[Input, ...]:
    return (Input("input_ids", ("batch", "sequence"), 99),)


DECODERS = {
    name: Family(name, help_, build, _ids, {"logits": {0: "batch", 1: "sequence"}})
    for name, help_, build in (
        ("gpt2", "GPT-2 of transformers, tiny, without a cache", _gpt2),
        ("llama", "Llama of transformers, tiny, grouped queries, without a cache", _llama),
    )
}
