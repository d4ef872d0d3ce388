"""Mistakes in combinations of the models' outputs, and in their proof."""

from .mutation import mutation

MUTATIONS = (
    mutation(
        "rows-of-unequal-batches-are-added",
        "netfuse_onnx/rules/combine.py",
        'alike = bool(site.node.attrs["alike"]) or all(isinstance(dim, int) for dim in site.dims(0))',
        "alike = True",
        "test_combine.py::test_only_equal_shapes_are_added_without_a_join",
    ),
    mutation(
        "the-first-of-several-labels-wins",
        "netfuse_onnx/rules/combine.py",
        "emit.const(-1, dtype), emit.const(0, dtype)",
        "emit.const(0, dtype), emit.const(0, dtype)",
        "test_combine.py::test_any_labels",
    ),
    mutation(
        "half-of-the-truths-are-enough",
        "netfuse_onnx/rules/combine.py",
        "emit.const(site.models / 2, np.float32)",
        "emit.const((site.models - 1) / 2, np.float32)",
        "test_combine.py::test_votes_of_truths",
    ),
    mutation(
        "sums-of-equal-values-count-once",
        "netfuse_onnx/rules/combine.py",
        'lambda wide: emit("Mul", wide, _number(site, emit))',
        "lambda wide: wide",
        "test_combine.py::test_what_is_equal_in_all_models",
    ),
    mutation(
        "halves-are-added-as-halves",
        "netfuse_onnx/rules/combine.py",
        "HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})",
        "HALVES = frozenset()",
        "test_combine.py::test_halves_are_added_in_float32",
    ),
    mutation(
        "a-combination-is-any-other",
        "netfuse_onnx/prove/combined.py",
        "gap = compare(result[key], self.want, Tolerance(0.0, 0.0, self.allowed))",
        "gap = compare(result[key], np.asarray(result[key]), Tolerance(0.0, 0.0, self.allowed))",
        "test_combine.py::test_a_model_that_is_left_out_is_seen",
    ),
    mutation(
        "any-label-is-a-tie",
        "netfuse_onnx/prove/combined.py",
        "most = sum(label in one for one in may)",
        "most = len(may)",
        "test_combine.py::test_no_other_label_may_win",
    ),
    mutation(
        "a-model-counted-twice-always-shows",
        "netfuse_onnx/prove/combined.py",
        "for (i, j), far in twice.items() if far < APART)",
        "for (i, j), far in twice.items() if far < 0.0)",
        "test_combine.py::test_models_that_are_alike_are_said",
    ),
    mutation(
        "verify-forgets-the-combinations",
        "netfuse_onnx/opened.py",
        "own_names=about.names is not None, combined=about.combined)",
        "own_names=about.names is not None)",
        "test_combine.py::test_an_ensemble",
    ),
    mutation(
        "a-body-reads-the-combination",
        "netfuse_onnx/rewrite/combine.py",
        "walk.rename(copy, lambda name: new if name == old else name)",
        "pass",
        "test_combine.py::test_a_value_that_a_body_reads",
    ),
    mutation(
        "whole-numbers-are-reduced",
        "netfuse_onnx/rules/combine.py",
        "    if site.inputs[0].dtype in WHOLE:\n",
        "    if False:\n",
        "test_combine.py::test_sums_of_whole_numbers_are_exact_and_wrap_around",
    ),
)
