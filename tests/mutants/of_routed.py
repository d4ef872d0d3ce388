"""Mistakes in routed files, each of which hands a tenant another one's answer, or lets rows meet."""

from __future__ import annotations

from .mutation import Mutation, mutation

EDGE = "netfuse_onnx/lower/routed.py"
CASES = "netfuse_onnx/plan/row_cases.py"
PROOF = "netfuse_onnx/prove/mixes.py"
NO_MODEL = "test_routed.py::test_what_names_no_model_fails"
DISAGREE = "test_routed.py::test_rows_that_disagree_fail"
MIXED = "test_routed.py::test_rows_of_any_mix_are_their_own_models"
REFUSED = "test_routed.py::test_what_mixes_rows_is_refused"
NOISE = "test_routed_noise.py::test_noise_excuses_a_little"
SEEN = "test_routed.py::test_a_file_that_is_right_for_equal_numbers_of_rows_is_seen"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "slots-take-ids-of-no-model",
        EDGE,
        "unequal(emit, [route, *rows], named, least=1)",
        "unequal(emit, [route, *rows], least=1)",
        NO_MODEL,
    ),
    mutation(
        "slots-take-other-numbers-of-rows",
        EDGE,
        "unequal(emit, [route, *rows], named, least=1)",
        "unequal(emit, [route], named, least=1)",
        DISAGREE,
    ),
    mutation(
        "rows-by-index-are-not-counted",
        EDGE,
        "choose(emit, route, [given[name] for name in own])",
        "choose(emit, route, [])",
        DISAGREE,
    ),
    mutation(
        "a-slot-is-that-of-another-model",
        EDGE,
        'emit("Mul", route, most)',
        'emit("Mul", route, emit.const([1]))',
        MIXED,
    ),
    mutation(
        "an-operand-may-have-a-size-where-rows-are",
        "netfuse_onnx/plan/row_states.py",
        "if s is None and len(d) >= place and d[-place] != 1:",
        "if False:",
        REFUSED,
    ),
    mutation(
        "a-reduction-of-rows-keeps-them",
        CASES,
        "axes is None or not axes or state.axis in axes or any(ins[1:])",
        "axes is None or not axes or any(ins[1:])",
        REFUSED,
    ),
    mutation(
        "an-operator-along-rows-keeps-them",
        CASES,
        "if any(state != ins[0] for state in others) or ins[0].axis in axes:",
        "if any(state != ins[0] for state in others):",
        REFUSED,
    ),
    mutation(
        "an-output-need-not-have-rows",
        "netfuse_onnx/plan/rows_apart.py",
        "if walk.states.get(name) != Rowed(0, 1):",
        "if False:",
        REFUSED,
    ),
    mutation(
        "mixes-are-not-compared",
        PROOF,
        "        return self.judge.right(name, model, self.case, rows, want)",
        "        return True",
        SEEN,
    ),
    mutation(
        "mixes-are-not-allowed-noise",
        "netfuse_onnx/prove/judge.py",
        "floor = most if by_channel is None else by_channel\n        noisy",
        "floor = 0.0\n        noisy",
        NOISE,
    ),
    mutation(
        "noise-excuses-any-channel",
        "netfuse_onnx/prove/judge.py",
        "floor = most if by_channel is None else by_channel\n        noisy",
        "floor = most\n        noisy",
        NOISE,
    ),
    mutation(
        "calls-that-must-fail-are-not-made",
        PROOF,
        "for what, feeds in lab.faults():",
        "for what, feeds in ():",
        "test_routed.py::test_a_file_without_its_check_is_seen",
    ),
)
