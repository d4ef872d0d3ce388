"""Mistakes in forms: weights of another channel, an axis that is not the last, a number that is nearly right."""

from __future__ import annotations

from .mutation import Mutation, mutation

SPELLED = "netfuse_onnx/load/spelled/"
ORACLE = "test_normal_forms.py::test_forms_compute_what_the_file_computes"
PAIRS = "test_normal_forms_pairs.py::"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "a-convolution-is-folded-though-others-read-it",
        SPELLED + "engine.py",
        "return self.producer(name, *keys) if self.reads[name] == 1 else None",
        "return self.producer(name, *keys)",
        PAIRS + "test_a_convolution_that_others_read_is_not_computed_twice",
    ),
    mutation(
        "the-scale-of-a-transposed-convolution-forgets-groups",
        SPELLED + "batchnorm.py",
        "rows = np.repeat(scale.reshape(groups, 1, -1), shape[0] // groups, axis=1).reshape(-1, 1)",
        "rows = np.tile(scale[: shape[1]], shape[0]).reshape(-1, 1)",
        ORACLE,
    ),
    mutation(
        "a-shift-along-columns-is-one-of-channels",
        SPELLED + "batchnorm.py",
        "if any(size != 1 for axis, size in enumerate(dims) if axis != 1) or dims[1] not in (1, count):",
        "if values.size not in (1, count):",
        PAIRS + "test_what_is_nearly_the_same_is_refused[a shift of columns]",
    ),
    mutation(
        "a-constant-that-is-nearly-right",
        SPELLED + "algebra.py",
        "DOUBLE: 1e-9}.get(dtype, 1e-6)",
        "DOUBLE: 1e-9}.get(dtype, 1e-2)",
        "test_spelling.py::test_what_only_looks_alike_stays",
        ORACLE,
    ),
    mutation(
        "a-mean-over-some-axes-is-one-over-a-picture",
        SPELLED + "pools.py",
        "if sorted(axis % len(dims) for axis in axes) != [*range(2, len(dims))]:",
        "if len(axes) != 2:",
        PAIRS + "test_what_is_nearly_the_same_is_refused[a mean over columns]",
    ),
    mutation(
        "folded-weights-count-as-those-of-files",
        "netfuse_onnx/prove/prover.py",
        "names = {*family.respelled.weights} if family.respelled else set()",
        "names = set[str]()",
        PAIRS + "test_two_spellings_merge[BatchNormalization folded-order0]",
    ),
)
