"""Mistakes in what brings files of several exporters together: sizes that are not equal pass for equal."""

from __future__ import annotations

from .mutation import Mutation, mutation

SPELLED = "netfuse_onnx/load/spelled/"
DIFFER = "test_exporters.py::test_sizes_that_differ_are_refused"
NOISE = "test_exporters.py::test_noise_covers_the_weights_into_which_a_norm_is_folded"
COUNTED = "test_exporters.py::test_positions_that_are_counted_are_no_positions"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "any-row-of-indices-counts-all-elements",
        SPELLED + "size_rules.py",
        "    if values.base.terms:\n        return False\n",
        "",
        COUNTED,
    ),
    mutation(
        "unknown-sizes-of-all-inputs-are-one",
        SPELLED + "sizes.py",
        'size = of_atom("input", index, axis)',
        'size = of_atom("input", 0, axis)',
        "test_exporters.py::test_symbols_of_their_own_are_not_one_size",
    ),
    mutation(
        "a-size-that-moves-is-one-that-stays",
        SPELLED + "one_size.py",
        "elif k < len(before) and before[k] == size:",
        "elif k < len(before) and before[k].constant is None:",
        DIFFER,
    ),
    mutation(
        "simplified-models-are-compared-with-themselves",
        "netfuse_onnx/api.py",
        "        paths = simplified.paths(paths)\n",
        "        paths = list(paths)\n",
        "test_exporters.py::test_simplified_models_merge",
    ),
    mutation(
        "weights-with-a-folded-norm-are-not-moved",
        "netfuse_onnx/prove/loaded.py",
        'SCALING = ("batch-normalization-folded", "channel-scale-folded")',
        'SCALING = ("channel-scale-folded",)',
        NOISE,
    ),
    mutation(
        "all-weights-of-a-model-with-a-folded-norm-are-moved",
        "netfuse_onnx/prove/loaded.py",
        "if len(weight.shape) > 1 and weight.own not in left]",
        "if len(weight.shape) > 1]",
        NOISE,
    ),
)
