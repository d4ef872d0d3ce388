"""Adapters that the peft library makes: merged with their base they equal the networks that it merges itself.

The base and the networks after merge_and_unload are exported by both exporters of torch. peft and torch are in
the extra `samples`; without them these tests are skipped.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import netfuse_onnx
from netfuse_onnx.run.runtime import Runtime, Session

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore")

WORDS = 50
SMALL = {"vocab_size": WORDS, "attn_implementation": "eager"}


def bert() -> Any:
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        num_labels=3,
        **SMALL,
    )
    return transformers.BertForSequenceClassification(config)


def llama() -> Any:
    config = transformers.LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=24,
        **SMALL,
    )
    return transformers.LlamaForCausalLM(config)


def gpt2() -> Any:
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **SMALL)
    )


NETWORKS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "bert": (bert, {"target_modules": ["query", "value"], "modules_to_save": ["classifier"], "bias": "all"}),
    "llama": (llama, {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "gpt2": (gpt2, {"target_modules": ["c_attn", "mlp.c_fc"], "fan_in_fan_out": True}),
}
SETTINGS: tuple[dict[str, Any], ...] = (
    {"r": 4, "lora_alpha": 6},
    {"r": 2, "lora_alpha": 3, "use_rslora": True},
)
SLOW = (("bert", "torchscript"), ("gpt2", "dynamo"), ("gpt2", "torchscript"), ("llama", "dynamo"))


class Wrapper(torch.nn.Module):  # type: ignore[misc, name-defined]
    """The network with all inputs given, so that both exporters take it. It puts `model.` before all names."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Any) -> Any:
        places = torch.arange(ids.shape[1])[None]
        mask = torch.ones_like(ids)
        return self.model(input_ids=ids, attention_mask=mask, position_ids=places, return_dict=False)[0]


def export(model: Any, path: Path, exporter: str) -> str:
    ids = (torch.zeros((2, 6), dtype=torch.int64),)
    model.config.use_cache = False
    named = {"input_names": ["ids"], "output_names": ["out"], "dynamo": exporter == "dynamo"}
    if exporter == "dynamo":
        torch.onnx.export(Wrapper(model).eval(), ids, str(path), external_data=False, verbose=False, **named)
    else:
        torch.onnx.export(Wrapper(model).eval(), ids, str(path), opset_version=17, **named)
    return str(path)


def disturb(model: Any, words: tuple[str, ...], size: float) -> None:
    """Add noise to the parameters whose names hold one of the words: a new adapter changes nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(word in name for word in words):
                parameter.add_(torch.randn_like(parameter) * size)


@pytest.mark.parametrize(
    ("name", "exporter"),
    [
        ("bert", "dynamo"),
        ("llama", "torchscript"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW),
    ],
)
def test_adapters_of_peft_equal_its_own_merge(tmp_path: Path, name: str, exporter: str) -> None:
    torch.manual_seed(0)
    build, common = NETWORKS[name]
    network = build().eval()
    disturb(network, ("",), 0.05)
    base = export(copy.deepcopy(network), tmp_path / "base.onnx", exporter)
    folded = []
    for k, settings in enumerate(SETTINGS):
        adapted = peft.get_peft_model(copy.deepcopy(network), peft.LoraConfig(**common, **settings)).eval()
        disturb(adapted, ("lora_", "modules_to_save", *(["bias"] if "bias" in common else [])), 0.3)
        adapted.save_pretrained(str(tmp_path / f"tenant{k}"))
        folded.append(export(adapted.merge_and_unload(), tmp_path / f"folded{k}.onnx", exporter))
    adapters = netfuse_onnx.adapters(base, [str(tmp_path / f"tenant{k}") for k in range(len(SETTINGS))])
    report = netfuse_onnx.merge(adapters, str(tmp_path / "merged.onnx"))
    assert report.ok
    ids = [np.random.default_rng(k).integers(0, WORDS, (2, 6)) for k in range(len(SETTINGS))]
    feeds = {f"{model}/ids": part for model, part in zip(report.models, ids, strict=True)}
    result = Session(report.out, Runtime("cpu")).run(feeds)
    unchanged = Session(base, Runtime("cpu"))
    for model, part, path in zip(report.models, ids, folded, strict=True):
        want = Session(path, Runtime("cpu")).run({"ids": part})["out"]
        np.testing.assert_allclose(result[f"{model}/out"], want, rtol=1e-4, atol=1e-5)
        assert np.abs(np.asarray(unchanged.run({"ids": part})["out"]) - np.asarray(want)).max() > 1e-2
