"""Reasons why operators run once per model.

An operator without a rule and without a reason here is replicated, too, until somebody writes a rule for it.
"""

from __future__ import annotations

from netfuse_onnx.ops import traits
from netfuse_onnx.ops.schemas import MICROSOFT, ML

RECURRENT = "a recurrent operator holds one set of weights, and ONNX has no form with a batch of them"
SIZE_FROM_DATA = "the size of its output depends on its data, so the models' outputs may differ in shape"
RANDOM = "it draws random numbers, and each model draws its own"
UNJOINABLE = "no operator joins or splits tensors of its element type"
CHEAPER = "by the costs measured for the target, once per model is cheaper"
UNSHAREABLE = "it gives an output of the graph that is not a tensor"
UNLIKE_BODY = "it has attributes, its own or those of operators in its body, that differ between the models"
BODY = "it has a body, whose trip count or branch depends on each model's data"

UNRANKED_FEATURES = "the ranks of its inputs are unknown; else it would be a Gather"

REASONS = {
    f"{ML}.ArrayFeatureExtractor": UNRANKED_FEATURES,
    **dict.fromkeys(("GRU", "LSTM", "RNN", f"{MICROSOFT}.DynamicQuantizeLSTM"), RECURRENT),
    **dict.fromkeys(traits.keys("data_sized"), SIZE_FROM_DATA),
    **dict.fromkeys(traits.keys("random"), RANDOM),
    **dict.fromkeys(traits.keys("bodies"), BODY),
}
