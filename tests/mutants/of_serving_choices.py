"""Mistakes in the choice of the next call, and in what calls cost."""

from .mutation import mutation

SCHEDULE = "netfuse_onnx/runtime/schedule.py"
WAYS = "netfuse_onnx/runtime/ways.py"
WAITING = "netfuse_onnx/runtime/waiting.py"
COSTS = "netfuse_onnx/runtime/costs.py"
TIMING = "netfuse_onnx/runtime/timing.py"

MUTATIONS = (
    mutation(
        "the-youngest-line-goes-first",
        SCHEDULE,
        "if line.arrived < arrived or found is None:",
        "if line.arrived > arrived or found is None:",
        "test_schedule.py::test_any_call_has_the_oldest_request_and_keeps_the_limits",
    ),
    mutation(
        "a-repeat-offender-joins-others",
        SCHEDULE,
        "if line.first <= most and m not in kept_out",
        "if line.first <= most",
        "test_schedule.py::test_a_model_that_is_kept_out_runs_by_itself_only",
    ),
    mutation(
        "a-repeat-offender-calls-others",
        SCHEDULE,
        "if model not in kept_out and (",
        "if (",
        "test_schedule.py::test_a_model_that_is_kept_out_runs_by_itself_only",
    ),
    mutation(
        "waiting-on-purpose-never-ends",
        SCHEDULE,
        "now < line.arrived + limits.max_wait",
        "now <= line.arrived + limits.max_wait",
        "test_schedule.py::test_waiting_on_purpose_has_an_end",
    ),
    mutation(
        "a-batch-is-always-one",
        SCHEDULE,
        "if BEHIND * saved * (waiting - more) < lost:",
        "if BEHIND * saved * (waiting - more) <= lost + 1e9:",
        "test_schedule.py::test_a_batch_grows_while_those_behind_gain_more_than_it_loses",
    ),
    mutation(
        "a-batch-is-always-all",
        SCHEDULE,
        "if BEHIND * saved * (waiting - more) < lost:",
        "if BEHIND * saved * (waiting - more) < -1e9:",
        "test_schedule.py::test_a_batch_grows_while_those_behind_gain_more_than_it_loses",
    ),
    mutation(
        "the-hot-model-shares-the-call",
        SCHEDULE,
        "if oldest.rows > way.units * way.calls and ways.serves_faster(oldest, way):",
        "if False:",
        "test_schedule.py::test_a_hot_model_runs_its_batch_before_the_others_share_a_call",
    ),
    mutation(
        "rows-that-mix-share-a-batch",
        WAITING,
        "        if not apart:\n            return 1\n",
        "",
        "test_schedule.py::test_rows_that_are_not_apart_never_share_a_batch",
    ),
    mutation(
        "a-call-has-one-request-too-many",
        WAITING,
        "if rows > most:",
        "if rows > most + 1:",
        "test_schedule.py::test_any_call_has_the_oldest_request_and_keeps_the_limits",
    ),
    mutation(
        "a-line-keeps-the-age-of-a-request-that-left",
        WAITING,
        "            line.look()\n            return",
        "            return",
        "test_schedule.py::test_a_cancelled_request_leaves_its_line",
        "test_schedule.py::test_any_call_has_the_oldest_request_and_keeps_the_limits",
    ),
    mutation(
        "empty-lines-stay",
        WAITING,
        "        del lines[model]\n",
        "        line.requests.extend(())\n",
        "test_schedule.py::test_what_is_asked_of_the_queue_does_not_grow_with_models_that_wait_for_nothing",
    ),
    mutation(
        "workers-are-not-counted",
        WAYS,
        "return max(longest, seconds / self.workers)",
        "return max(longest, seconds)",
        "test_schedule.py::test_the_choice_is_the_best_of_all_ways",
    ),
    mutation(
        "the-longest-call-is-not-counted",
        WAYS,
        "return max(longest, seconds / self.workers)",
        "return seconds / self.workers",
        "test_schedule.py::test_the_choice_is_the_best_of_all_ways",
    ),
    mutation(
        "what-is-left-costs-nothing",
        WAYS,
        "            if depth > done:",
        "            if not calls:",
        "test_schedule.py::test_the_choice_is_the_best_of_all_ways",
    ),
    mutation(
        "merged-calls-are-free",
        WAYS,
        "together = GAIN * self._merged(lines, units, call)",
        "together = 0 * self._merged(lines, units, call)",
        "test_never_loses.py::test_no_load_is_served_worse",
    ),
    mutation(
        "one-merged-call-pays-for-all",
        WAYS,
        "seconds += together * (calls if self.times.runs_all else 1)",
        "seconds += together",
        "test_schedule.py::test_the_choice_is_the_best_of_all_ways",
    ),
    mutation(
        "an-outlier-counts-in-full",
        COSTS,
        "self.together[1].move(size, _within(ratio, FARTHEST), step)",
        "self.together[1].move(size, ratio, step)",
        "test_costs.py::test_estimates_follow_the_machine_and_no_outlier",
    ),
    mutation(
        "what-seems-slow-is-never-tried-again",
        COSTS,
        "self.faded *= 1 - FADE",
        "self.faded *= 1",
        "test_costs.py::test_merged_calls_that_seemed_too_slow_are_tried_again",
    ),
    mutation(
        "a-surprise-never-ends-to-be-one",
        COSTS,
        "return abs(self._surprises[kind]) >= SURPRISES",
        "return False",
        "test_costs.py::test_a_machine_that_changes_is_followed_at_once_but_not_for_one_slow_call",
    ),
    mutation(
        "one-slow-call-moves-all",
        COSTS,
        "return abs(self._surprises[kind]) >= SURPRISES",
        "return abs(self._surprises[kind]) >= 1",
        "test_costs.py::test_a_machine_that_changes_is_followed_at_once_but_not_for_one_slow_call",
    ),
    mutation(
        "a-new-form-learns-slowly",
        COSTS,
        "        times.new = NEW\n",
        "",
        "test_costs.py::test_a_new_form_is_estimated_by_its_size_and_learns_fast",
    ),
    mutation(
        "shared-bytes-make-a-form",
        COSTS,
        'return getattr(form, "sizes", form)',
        "return form",
        "test_costs.py::test_bytes_that_all_requests_share_make_no_form_of_their_own",
    ),
    mutation(
        "the-last-time-counts",
        TIMING,
        'found[size] = min(found.get(size, float("inf")), call(size))',
        "found.setdefault(size, call(size))",
        "test_costs.py::test_times_are_found_for_any_rows",
    ),
    mutation(
        "measuring-takes-its-time",
        TIMING,
        "if found and clock() + (1 + first) * _expected(plan, found, size) > end:",
        "if found and clock() > end:",
        "test_costs.py::test_measuring_ends_in_time_and_begins_with_what_is_cheap",
    ),
    mutation(
        "a-call-of-all-costs-less-than-one-of-them",
        "netfuse_onnx/runtime/costs.py",
        "time = max(time, self.own(most))",
        "pass",
        "test_schedule.py::test_from_how_many_waiting_models_on_a_merged_call_pays",
    ),
)
