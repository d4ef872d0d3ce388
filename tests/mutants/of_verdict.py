"""Mistakes in verdicts: in what they compare, and in the time that a comparison takes."""

from .mutation import mutation

MUTATIONS = (
    mutation(
        "quartiles-have-no-say",
        "netfuse_onnx/compared.py",
        "        three = [self.ratio, *quartiles]\n",
        "        three = [self.ratio]\n",
        "test_verdict.py::test_the_outcome_is_that_of_the_ratio_and_its_quartiles",
    ),
    mutation(
        "the-ratio-of-the-rounds",
        "netfuse_onnx/measure/rounds.py",
        "    return replace(of_rounds, median=statistics.median(slower) / statistics.median(faster))\n",
        "    return of_rounds\n",
        "test_verdict.py::test_the_ratio_is_that_of_the_medians",
    ),
    mutation(
        "a-number-above-one-that-does-not-pay",
        "netfuse_onnx/verdict.py",
        "        if some[k].outcome is not Outcome.BETTER:\n            break\n",
        "        if some[k].outcome is not Outcome.BETTER:\n            continue\n",
        "test_verdict.py::test_a_number_that_may_pay_does_not_count",
    ),
    mutation(
        "some-models-slower-than-all",
        "netfuse_onnx/measure/waiting.py",
        "    if found.seconds.median <= every.median or every.seconds is None:\n",
        "    if True or every.seconds is None:\n",
        "test_waiting.py::test_what_runs_all_serves_some_as_well",
    ),
    mutation(
        "a-pool-always-runs-all",
        "netfuse_onnx/measure/contenders.py",
        "self._run_one(model) if model < count else None",
        "self._run_one(model)",
        "test_waiting.py::test_only_so_many_models_run",
    ),
    mutation(
        "enums-become-text",
        "netfuse_onnx/wording.py",
        "    if isinstance(value, enum.Enum):\n        return value\n",
        "",
        "test_measure_cuda.py::test_calls_of_some_models_are_sampled_while_their_sessions_are_loaded",
    ),
    mutation(
        "trials-after-their-time",
        "netfuse_onnx/measure/choice.py",
        "        if begun >= until or (tried and begun + last > end):\n",
        "        if tried and begun + last > end:\n",
        "test_waiting.py::test_the_first_call_of_each_way_is_the_least",
    ),
    mutation(
        "a-cut-excuses-a-failure",
        "netfuse_onnx/measure/report.py",
        "        idle = (row for row in self.rows if row.merged and row.label not in ran)\n",
        "        idle = () if self.cut else (row for row in self.rows if row.merged and row.label not in ran)\n",
        "test_waiting.py::test_a_merged_model_that_fails_is_a_no_however_short_the_time",
    ),
    mutation(
        "mostly-replicated-not-said",
        "netfuse_onnx/sentences.py",
        "    if not apart or apart < MOSTLY * differing:\n",
        "    if True:\n",
        "test_verdict_cli.py::test_it_warns_where_nearly_nothing_is_merged",
    ),
)
