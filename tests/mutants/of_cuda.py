"""Mistakes in what is done on CUDA alone: repeated runs of the proof, and the comparison of ways there."""

from .mutation import mutation

FORMER_TURN = "test_measure_cuda.py::test_values_of_a_former_turn_are_seen"

MUTATIONS = (
    mutation(
        "a-bias-may-be-broadcast-in-a-proof",
        "netfuse_onnx/prove/loaded.py",
        "            if a != b and 1 not in declared:\n",
        "            if False:\n",
        "test_checked_sizes.py::test_sizes_are_those_that_a_source_takes_without_optimisations",
    ),
    mutation(
        "a-declared-broadcast-is-refused",
        "netfuse_onnx/prove/loaded.py",
        "if a != b and 1 not in declared:",
        "if a != b:",
        "test_checked_sizes.py::test_a_bias_that_is_broadcast_must_be_declared_so",
    ),
    mutation(
        "nothing-runs-between-the-two-runs",
        "netfuse_onnx/prove/replay.py",
        "            session.run(inputs[0])\n",
        "            session.run(inputs[1])\n",
        "test_cuda.py::test_values_of_a_former_run_are_a_problem",
    ),
    mutation(
        "other-inputs-are-the-same",
        "netfuse_onnx/prove/replay.py",
        "replace(trial.cases[0], salt=OTHER), (model + 1) % trial.family.models",
        "trial.cases[0], model",
        "test_cuda.py::test_values_of_the_capture_are_a_problem",
    ),
    mutation(
        "stale-values-are-not-said",
        "netfuse_onnx/prove/values.py",
        "yield from replays.problems if replays else ()",
        "yield from ()",
        "test_cuda.py::test_stale_values_fail_the_proof",
    ),
    mutation(
        "the-graph-has-tf32",
        "netfuse_onnx/prove/replay.py",
        "CUDA_GRAPH, tf32=False",
        "CUDA_GRAPH, tf32=True",
        "test_cuda.py::test_the_graph_of_a_proof_is_captured_with_tf32_off",
    ),
    mutation(
        "one-turn-of-inputs",
        "netfuse_onnx/measure/once.py",
        "CHECKS = (0, 1, 0)",
        "CHECKS = (0, 0, 0)",
        FORMER_TURN,
    ),
    mutation(
        "a-turn-compared-with-the-other",
        "netfuse_onnx/measure/workload.py",
        "self._learned[exact][turn]",
        "self._learned[exact][0]",
        "test_measure_cuda.py::test_all_ways_have_the_same_settings",
    ),
    mutation(
        "every-sequence-has-a-say",
        "netfuse_onnx/measure/once.py",
        "if type(contender) is InSequence and settings == Settings(exact=settings.exact):",
        "if isinstance(contender, InSequence):",
        "test_measure_cuda.py::test_values_of_a_former_turn_are_seen",
    ),
    mutation(
        "a-bias-fused-alone",
        "netfuse_onnx/measure/sessions.py",
        'NHWC = {"prefer_nhwc": "1", "fuse_conv_bias": "1"}',
        'NHWC = {"fuse_conv_bias": "1"}',
        "test_measure_cuda.py::test_a_bias_is_never_fused_without_the_layout",
    ),
    mutation(
        "places-of-the-callers-arrays",
        "netfuse_onnx/run/bound.py",
        "return array if self._away else array.copy()",
        "return array",
        "test_cuda.py::test_places_are_apart_from_the_arrays_of_the_caller",
    ),
    mutation(
        "captures-at-the-same-time",
        "netfuse_onnx/measure/contenders.py",
        "        self._turns = threading.Lock()\n",
        "",
        "test_measure_cuda.py::test_a_pool_captures_one_graph_at_a_time",
    ),
)
