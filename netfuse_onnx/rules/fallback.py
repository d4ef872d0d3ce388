"""Operators that stay once per model, and why.

An operator without a rule and without a line here is replicated as well: right, but for a reason that
somebody may argue with.
"""

from __future__ import annotations

from netfuse_onnx.ops import traits
from netfuse_onnx.ops.schemas import MICROSOFT

RECURRENT = "a recurrent operator holds one set of weights, and ONNX has no form with a batch of them"
SIZE_FROM_DATA = "the size of its output depends on its data, so the models' outputs may differ in shape"
RANDOM = "it draws random numbers, which each model draws for itself"
UNJOINABLE = "no operator joins or splits tensors of its element type"
CHEAPER = "by the costs measured for the target, once per model is cheaper"
UNSHAREABLE = "it gives an output of the graph that is not a tensor"
UNLIKE_BODY = "it has attributes, its own or those of operators in its body, that differ between the models"
BODY = "it has a body, which runs as often, and on the branch, that its own model's data says"

REASONS = {
    **dict.fromkeys(("GRU", "LSTM", "RNN", f"{MICROSOFT}.DynamicQuantizeLSTM"), RECURRENT),
    **dict.fromkeys(traits.keys("data_sized"), SIZE_FROM_DATA),
    **dict.fromkeys(traits.keys("random"), RANDOM),
    **dict.fromkeys(traits.keys("bodies"), BODY),
}
