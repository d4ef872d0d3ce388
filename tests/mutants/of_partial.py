"""Mistakes with models that end in operators of their own: a tail on another model's values, a common part that
is none, an output that a model lacks."""

from __future__ import annotations

from .mutation import Mutation, mutation

TESTS = "test_tails.py"
EACH = "test_tails.py::test_each_model_gives_what_its_own_file_gives"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "a-tail-reads-the-first-model-s-values",
        "netfuse_onnx/lower/tails.py",
        "return held[self.model if len(held) > 1 else 0] if isinstance(held, tuple) else held",
        "return held[0] if isinstance(held, tuple) else held",
        EACH,
    ),
    mutation(
        "types-of-elements-may-differ-in-the-common-part",
        "netfuse_onnx/match/common.py",
        "if key in TYPING)",
        'if key == "never")',
        "test_tails.py::test_a_cast_to_another_type_ends_the_common_part",
    ),
    mutation(
        "any-common-part-is-enough",
        "netfuse_onnx/match/common.py",
        "LEAST = 0.5",
        "LEAST = 0.0",
        "test_tails.py::test_a_layer_in_the_middle_is_refused_with_where_the_common_part_ends",
    ),
    mutation(
        "a-weight-of-a-tail-is-compared-with-its-own-copy-of-all-models",
        "netfuse_onnx/prove/holders.py",
        "return [Holder(k, part.own, family.names[model]) for k, part in enumerate(recipe.parts)]",
        "return []",
        "test_tails.py::test_weights_of_tails_are_proven",
    ),
    mutation(
        "rows-of-a-tail-are-taken-to-be-apart",
        "netfuse_onnx/plan/batch.py",
        "for model, source in enumerate(family.sources if family.tails else ()):",
        "for model, source in enumerate(()):",
        "test_tails.py::test_a_tail_that_mixes_rows_is_known",
    ),
    mutation(
        "a-weight-of-a-tail-belongs-to-all",
        "netfuse_onnx/write/regions.py",
        "else () if only is None else (only,)",
        "else ()",
        "test_tails.py::test_the_manifest_says_whose_weights_of_tails_are",
    ),
    mutation(
        "an-output-that-a-model-lacks-is-answered",
        "netfuse_onnx/runtime/signature.py",
        "for port in ports if port.own[place])",
        "for port in ports)",
        "test_tails.py::test_a_session_answers_each_model_with_its_own_outputs",
    ),
)
