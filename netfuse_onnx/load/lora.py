"""The reader of LoRA adapters as the peft library saves them: a safetensors file with adapter_config.json.

For each module that it changes the file has A [r, in] and B [out, r]; the weight of the module becomes the
base's plus scale B A, where scale is lora_alpha / r, or lora_alpha / sqrt(r) with use_rslora. Tensors of
other names (modules_to_save, bias) replace those of the base. Whatever else a configuration asks for is
refused: an adapter that is read in part would be another model.
https://huggingface.co/docs/peft/developer_guides/lora
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto

from netfuse_onnx.errors import FileFault
from netfuse_onnx.storage import external, safetensors, weights
from netfuse_onnx.types import Weight

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
MOST_CONFIG = 1 << 20
"""The longest configuration in bytes. Those of peft have about a thousand."""
MOST_RANK = 1 << 16

_PART = re.compile(r"(?P<module>.+)\.lora_(?P<part>[AB])(?:\.[^.]+)?\.weight")
_SAVED = re.compile(r"\.modules_to_save(?:\.[^.]+)?(?=\.[^.]+$)|\.base_layer(?=\.)")
_OTHER = re.compile(r"(?:^|\.)(?:lora_|hada_|ia3_|lokr_|b?oft_|vera_|prompt_|trainable_tokens|token_adapter)")
_UNUSED = re.compile(r"\.original_module\.")
"""The base's own tensor, which bias="all" saves beside the one of modules_to_save that takes its place."""
_NESTED = re.compile(r"\)[*+{?]")
"""A repeated group: such a pattern may take years to compare."""
HARMLESS = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config", "exclude_modules",
        "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
        "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
        "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
        "alpha_pattern", "revision", "runtime_config", "target_modules", "task_type", "use_rslora",
    }
)  # fmt: skip
"""Keys of a configuration that are read here, or that are of interest to training alone."""
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base's weights as they are."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The two matrices of one module, or filters, and the factor of their product."""

    a: Weight
    b: Weight
    scale: float

    @property
    def rank(self) -> int:
        return self.a.shape[0]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter: the path of its tensors, the files read, the pairs by module, and the tensors that replace
    those of the base, by name. Names are without the prefix of the library."""

    path: str
    files: tuple[str, ...]
    pairs: Mapping[str, Pair]
    replaced: Mapping[str, Weight]


def weights_of(path: str) -> str:
    """Return the path of the safetensors file that an argument names: itself, or the one in a folder."""
    return os.path.join(path, WEIGHTS) if os.path.isdir(path) else path


def read(path: str) -> Adapter:
    """Return the adapter in a safetensors file. Raises FileFault for one that is invalid, or that needs more
    than LoRA on linear layers and convolutions."""
    tensors = safetensors.read(path)
    config_path = _config_path(path)
    config = _Config(config_path)
    parts: dict[str, dict[str, Weight]] = {}
    replaced: dict[str, Weight] = {}
    for name, weight in tensors.items():
        own = name.removeprefix(PREFIX)
        if _UNUSED.search(own):
            continue
        if match := _PART.fullmatch(own):
            place, key = parts.setdefault(match["module"], {}), match["part"]
        elif _OTHER.search(own):
            raise FileFault(f"{path} has {name[:120]!r}, which is no part of plain LoRA.", UNSUPPORTED)
        else:
            place, key = replaced, _SAVED.sub("", own)
        if key in place and not weights.same(place[key], weight):
            raise FileFault(f"{path} has {name[:120]!r} for a place that another tensor has.", UNSUPPORTED)
        place[key] = weight
    if not tensors:
        raise FileFault(f"{path} has no tensors.", "Is it the adapter?")
    pairs = {module: _pair(path, module, both, config) for module, both in parts.items()}
    return Adapter(path, (path, config_path), pairs, replaced)


UNSUPPORTED = (
    "Merge the adapter into its base before the export (merge_and_unload), and give the exported models."
)


def _config_path(path: str) -> str:
    """Return the configuration of an adapter: a.json beside a.safetensors, else adapter_config.json there."""
    own = os.path.splitext(path)[0] + ".json"
    beside = os.path.join(os.path.dirname(path), CONFIG)
    found = next((each for each in (own, beside) if os.path.isfile(each)), None)
    if found is None:
        raise FileFault(
            f"{path} has no {CONFIG} beside it, which says by how much its product is scaled.",
            f"Put the {CONFIG} of the adapter there, or {os.path.basename(own)} where several adapters share "
            "a folder.",
        )
    return found


def _pair(path: str, module: str, both: Mapping[str, Weight], config: _Config) -> Pair:
    """Return the two matrices of a module. Raises FileFault where they do not fit each other."""
    a, b = both.get("A"), both.get("B")
    if a is None or b is None:
        raise FileFault(f"{path} has one of lora_A and lora_B alone for {module!r}.", safetensors.DAMAGED)
    fits = len(a.shape) == len(b.shape) >= 2 and a.shape[0] == b.shape[1]
    if not fits or 0 in (*a.shape, *b.shape) or any(size != 1 for size in b.shape[2:]):
        shapes = f"{list(a.shape)} and {list(b.shape)}"
        raise FileFault(
            f"{path}: lora_A and lora_B of {module!r} have shapes {shapes}, which have no product.",
            safetensors.DAMAGED,
        )
    if a.dtype not in FLOATS or b.dtype not in FLOATS:
        raise FileFault(f"{path}: the matrices of {module!r} are no floats.", UNSUPPORTED)
    return Pair(a, b, config.scale(module, a.shape[0]))


class _Config:
    """A checked adapter_config.json. Raises FileFault."""

    def __init__(self, path: str) -> None:
        self.path = path
        value = self._value()
        if value.get("peft_type") != "LORA":
            raise self._fault(f"holds an adapter of type {str(value.get('peft_type'))[:40]!r}, not LORA")
        for key, given in value.items():
            if given not in (None, False, "", [], {}) and key not in HARMLESS:
                raise self._fault(f"sets {key[:60]!r}, which is more than plain LoRA")
        start = value.get("init_lora_weights")
        if isinstance(start, list | dict | int | float) and not isinstance(start, bool):
            raise self._fault("has an init_lora_weights that is no word")
        if start not in PLAIN_STARTS:
            raise self._fault(f"begins with {str(start)[:40]!r}, which changes weights of the base as well")
        self._rslora = value.get("use_rslora") is True
        self._rank = self._number(value.get("r"), "r")
        self._alpha = self._number(value.get("lora_alpha"), "lora_alpha")
        self._ranks = dict(self._patterns(value, "rank_pattern"))
        self._alphas = dict(self._patterns(value, "alpha_pattern"))

    def scale(self, module: str, rank: int) -> float:
        """Return the factor of the product of a module. Raises FileFault where its rank is another one."""
        wanted = self._of(self._ranks, module, self._rank)
        if wanted != rank:
            raise self._fault(f"gives {module!r} rank {wanted:g}, and its matrices have rank {rank}")
        alpha = self._of(self._alphas, module, self._alpha)
        return alpha / (math.sqrt(rank) if self._rslora else rank)

    @staticmethod
    def _of(patterns: Mapping[str, float], module: str, default: float) -> float:
        """Return the value of the first pattern that matches the end of a module's name, as peft does."""
        for pattern, value in patterns.items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return default

    def _patterns(self, config: Mapping[str, Any], key: str) -> Iterator[tuple[str, float]]:
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict):
            raise self._fault(f"has a {key} that is no object")
        for pattern, value in patterns.items():
            try:
                if len(pattern) > 300 or _NESTED.search(pattern):
                    raise self._fault(f"has a pattern in {key} that is too complex")
                re.compile(pattern)
            except re.error as error:
                raise self._fault(f"has a pattern in {key} that is none") from error
            yield pattern, self._number(value, key)

    def _number(self, value: Any, key: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST_RANK:
            raise self._fault(f"has no usable {key}")
        return float(value)

    def _value(self) -> dict[str, Any]:
        try:
            with open(self.path, "rb") as file:
                raw = file.read(MOST_CONFIG + 1)
        except OSError as error:
            raise external.unreadable(self.path, error) from error
        try:
            value = json.loads(raw.decode()) if len(raw) <= MOST_CONFIG else None
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise FileFault(f"{self.path} is no JSON object.", "Is it the adapter_config.json of peft?")
        return value

    def _fault(self, what: str) -> FileFault:
        return FileFault(f"{self.path} {what}.", UNSUPPORTED)
