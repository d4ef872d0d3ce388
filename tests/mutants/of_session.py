"""Mistakes in serving, each of which loses a request, answers it wrongly, or blames the innocent."""

from __future__ import annotations

from .mutation import Mutation, mutation

RUNTIME = "netfuse_onnx/runtime/"
BOUNDS = RUNTIME + "bounds.py"
DISPATCH, QUEUE, WORKERS = RUNTIME + "dispatch.py", RUNTIME + "queue.py", RUNTIME + "workers.py"
ISOLATION, GUARD, DIRECT = RUNTIME + "isolation.py", RUNTIME + "guard.py", RUNTIME + "direct.py"
SERVING, GENERATION = RUNTIME + "serving.py", RUNTIME + "generation.py"
ALONE = "test_merged_session.py::test_a_failed_merged_call_blames_the_guilty_alone"
BATCH = "test_merged_session.py::test_a_failed_batch_of_one_model_blames_the_guilty_alone"
OFFENDER = "test_merged_session.py::test_a_repeat_offender_is_kept_out_until_it_succeeds"
NOBODY = "test_merged_session.py::test_merged_calls_that_fail_for_nobodys_fault_are_left_for_a_while"
LATE = "test_session_bounds.py::test_a_request_that_is_too_late_never_runs"
CANCELLED = "test_session_bounds.py::test_a_cancelled_request_never_runs"
FAIR = "test_fair_queues.py::test_a_request_is_refused_only_where_its_model_has_its_share"
FULL = "test_session_bounds.py::test_full_queues_refuse_at_once"
DRAIN = "test_session_bounds.py::test_close_with_drain_answers_everything"
DROP = "test_session_bounds.py::test_close_without_drain_drops_what_waits_and_waits_for_what_runs"
STAYS = "test_session_swap.py::test_a_request_stays_with_the_generation_that_it_entered"
THREADS = "test_session_swap.py::test_many_threads_lose_nothing_and_mix_nothing_up"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "a-retry-gives-the-error-to-everybody",
        ISOLATION,
        "r: outcome for done in again for r, outcome in zip(done.requests, done.outcomes, strict=True)",
        "r: next((o for o in done.outcomes if isinstance(o, ServingError)), done.outcomes[0]) "
        "for done in again for r in done.requests",
        BATCH,
        "test_merged_session.py::test_requests_in_the_queue_are_isolated_too",
    ),
    mutation(
        "retried-outcomes-come-in-the-order-of-models",
        ISOLATION,
        "return Performed(kind, requests, [found[r] for r in requests], seconds",
        "return Performed(kind, requests, list(found.values()), seconds",
        "test_merged_session.py::test_retried_requests_keep_their_order",
    ),
    mutation(
        "a-failed-call-is-not-run-again",
        ISOLATION,
        'if len(requests) == 1 and (kind == "alone" or not engine.own_sessions):\n'
        "            outcome = _as_error(fault, engine.models[requests[0].model])\n"
        "            return Performed(kind, requests, (outcome,), seconds, failed=True)",
        "if requests:\n"
        "            outcome = _as_error(fault, engine.models[requests[0].model])\n"
        "            return Performed(kind, requests, (outcome,) * len(requests), seconds, failed=True)",
        ALONE,
    ),
    mutation(
        "an-error-keeps-the-inputs-of-others",
        ISOLATION,
        "    # Not inside the `except`: an error would keep that of the call, and with it the inputs of all "
        'requests.\n    again = _again(engine, requests, by_model=kind == "merged")\n'
        "    found = {r: outcome for done in again for r, outcome in zip(done.requests, done.outcomes, strict=True)}\n",
        '        again = _again(engine, requests, by_model=kind == "merged")\n'
        "        found = {r: o for done in again for r, o in zip(done.requests, done.outcomes, strict=True)}\n",
        "test_merged_session.py::test_an_error_keeps_nothing_of_other_requests",
    ),
    mutation(
        "too-few-answers-are-taken",
        ISOLATION,
        "if len(outputs) != len(requests):",
        "if not outputs:",
        "test_merged_session.py::test_an_engine_that_gives_too_few_answers_fails_no_innocent",
    ),
    mutation(
        "an-offender-is-never-kept-out",
        GUARD,
        "if self._strikes[model] >= STRIKES:",
        "if self._strikes[model] >= 10 * STRIKES:",
        OFFENDER,
    ),
    mutation(
        "an-offender-never-comes-back",
        GUARD,
        "if self._successes[model] >= SUCCESSES:",
        "if self._successes[model] >= 10 * SUCCESSES:",
        OFFENDER,
    ),
    mutation(
        "merged-calls-are-tried-though-they-all-fail",
        GUARD,
        "return self._successes.keys() if now >= self._until else self._every",
        "return self._successes.keys()",
        NOBODY,
    ),
    mutation(
        "the-short-way-takes-offenders",
        DIRECT,
        "if seconds > 0 and generation.guard.is_calm:",
        "if seconds > 0:",
        "test_session_many.py::test_the_short_way_leaves_out_offenders",
    ),
    mutation(
        "late-requests-run",
        DISPATCH,
        "job = self._late(now)",
        "job = None",
        LATE,
        hangs=True,
    ),
    mutation(
        "a-cancelled-request-stays-in-the-queue",
        QUEUE,
        "        if cancelled and entry is not None:",
        "        if cancelled and entry is None:",
        CANCELLED,
        FULL,
    ),
    mutation(
        "the-queue-of-a-model-has-no-end",
        BOUNDS,
        "own >= self.max_queue_per_model",
        "own > 10 * self.max_queue_per_model",
        FULL,
        hangs=True,
    ),
    mutation(
        "the-queue-in-all-has-no-end",
        BOUNDS,
        "if waiting >= self.max_queue and",
        "if waiting > 10 * self.max_queue and",
        FULL,
        FAIR,
        hangs=True,
    ),
    mutation(
        "busy-models-take-the-places-of-a-quiet-one",
        BOUNDS,
        "own >= (share := self.share(models))",
        "own >= (share := 0)",
        FAIR,
        "test_fair_queues.py::test_a_quiet_model_enters_a_queue_that_others_fill",
    ),
    mutation(
        "a-share-of-more-models-than-places-is-nothing",
        BOUNDS,
        "return max(1, self.max_queue // models)",
        "return self.max_queue // models",
        "test_fair_queues.py::test_the_share_of_each_model_is_there_when_the_hottest_came_first",
    ),
    mutation(
        "a-drain-drops-the-queue",
        SERVING,
        "        if not drain:\n            drop(",
        "        if drain or not drain:\n            drop(",
        DRAIN,
    ),
    mutation(
        "without-drain-the-queue-runs",
        SERVING,
        "        if not drain:\n            drop(",
        "        if drain and not drain:\n            drop(",
        DROP,
        hangs=True,
    ),
    mutation(
        "files-are-closed-while-a-call-runs",
        GENERATION,
        "return not self.running and not len(self.queue)",
        "return not len(self.queue)",
        STAYS,
        DROP,
        THREADS,
    ),
    mutation(
        "files-are-closed-while-requests-wait",
        GENERATION,
        "return not self.running and not len(self.queue)",
        "return not self.running",
        STAYS,
        THREADS,
        DRAIN,
    ),
    mutation(
        "a-request-enters-the-generation-that-left",
        DISPATCH,
        "            if generation is not self.current:\n                return None\n",
        "",
        "test_session_swap.py::test_a_request_checked_before_a_swap_is_checked_again_after_it",
        THREADS,
        hangs=True,
    ),
    mutation(
        "a-caller-starts-on-the-generation-that-left",
        DISPATCH,
        "if self.closing or generation is not self.current or self.waiting or not self.slots.is_free:",
        "if self.closing or self.waiting or not self.slots.is_free:",
        "test_session_swap.py::test_a_request_checked_before_a_swap_is_checked_again_after_it",
    ),
    mutation(
        "who-comes-beside-the-queue-does-not-look-again",
        DIRECT,
        "if not dispatcher.closing and generation is dispatcher.current:",
        "if not dispatcher.closing:",
        "test_session_many.py::test_a_swap_in_the_moment_of_coming_is_seen",
        hangs=True,
    ),
    mutation(
        "who-leaves-beside-the-queue-closes-nothing",
        DIRECT,
        "        if dispatcher.closing or generation.is_retired:\n            dispatcher.finish(generation, ticket)",
        "        pass",
        "test_session_many.py::test_the_last_caller_beside_the_queue_closes_what_was_replaced",
    ),
    mutation(
        "an-interrupted-call-keeps-its-slot",
        SERVING,
        "            if ticket in generation.running:  # interrupted",
        "            if ticket not in generation.running:  # interrupted",
        "test_session_bounds.py::test_an_interrupt_inside_a_call_gives_its_slot_back",
        hangs=True,
    ),
    mutation(
        "an-interrupted-caller-leaves-its-request",
        SERVING,
        "        except BaseException:  # an interrupt: nobody wants the answer any more\n            answer.cancel()",
        "        except BaseException:  # an interrupt: nobody wants the answer any more\n            pass",
        "test_session_bounds.py::test_an_interrupt_of_a_waiting_caller_takes_its_request_back",
    ),
    mutation(
        "a-callers-writing-changes-what-waits",
        SERVING,
        "request = self._checked(generation, model, feeds, timeout, copy=True)",
        "request = self._checked(generation, model, feeds, timeout)",
        "test_merged_session.py::test_inputs_of_a_request_that_waits_are_its_own",
    ),
    mutation(
        "long-calls-run-in-the-senders-thread",
        GENERATION,
        "return seconds <= QUICK and",
        "return",
        "test_session_quick.py::test_only_short_calls_run_in_the_thread_that_submits",
    ),
    mutation(
        "much-load-runs-in-the-senders-thread",
        GENERATION,
        "return seconds <= QUICK and rested >= REST",
        "return seconds <= QUICK",
        "test_session_quick.py::test_where_much_arrives_it_queues",
    ),
    mutation(
        "what-is-waited-for-on-purpose-runs-at-once",
        GENERATION,
        "if not self.engine.own_sessions or self.limits.max_wait > 0:",
        "if not self.engine.own_sessions:",
        "test_session_quick.py::test_waiting_on_purpose_waits",
    ),
    mutation(
        "who-is-guilty-is-asked-without-a-session",
        ISOLATION,
        'perform(engine, "alone", group, must=True)',
        'perform(engine, "alone", group)',
        "test_openings.py::test_requests_of_a_model_without_an_open_session_run_in_merged_calls",
    ),
    mutation(
        "a-call-begins-beside-a-wide-one",
        RUNTIME + "slots.py",
        "return self._wide is None and len(self._tickets) < self.count",
        "return len(self._tickets) < self.count",
        "test_wide_calls.py::test_a_wide_call_has_all_slots",
    ),
    mutation(
        "each-call-counts-as-time-of-its-own",
        RUNTIME + "slots.py",
        "        if not self._tickets:\n            self._since",
        "        if True:\n            self._since",
        "test_wide_calls.py::test_times_in_which_several_calls_run_count_once",
    ),
    mutation(
        "who-waits-for-the-answer-counts-as-others",
        RUNTIME + "moments.py",
        "self._meanwhile += step * (is_busy - self._meanwhile)",
        "self._meanwhile += step * (1 - self._meanwhile)",
        "test_wide_calls.py::test_arrivals_count_that_come_while_others_are_served",
    ),
    mutation(
        "a-wide-call-keeps-its-slots",
        RUNTIME + "slots.py",
        "            self._wide = None\n        if ticket",
        "            pass\n        if ticket",
        "test_wide_calls.py::test_a_wide_call_has_all_slots",
    ),
    mutation(
        "calls-of-run-many-do-not-know-of-each-other",
        DIRECT,
        "load = Load(self.slots, self._running + dispatcher.slots.busy, one_caller=True)",
        "load = Load(self.slots, 0, one_caller=True)",
        "test_wide_calls.py::test_run_many_is_wide_for_one_request_and_fills_the_slots_for_many",
    ),
    mutation(
        "nobody-is-woken-when-a-callers-call-ends",
        DISPATCH,
        "                self.slots.discard(ticket)\n                if self.waiting:\n                    self.idle.wake()",
        "                self.slots.discard(ticket)",
        "test_session_swap.py::test_what_waits_for_a_callers_own_call_runs_after_it",
        hangs=True,
    ),
    mutation(
        "a-woken-thread-counts-as-woken-for-ever",
        "netfuse_onnx/runtime/idle.py",
        "            self._is_woken = False\n\n    def wake(self)",
        "            pass\n\n    def wake(self)",
        "test_merged_session.py::test_calls_run_beside_each_other_up_to_the_number_of_workers",
        "test_session_bounds.py::test_a_request_that_is_too_late_never_runs",
        THREADS,
        hangs=True,
    ),
    mutation(
        "no-thread-wakes-for-an-earlier-deadline",
        "netfuse_onnx/runtime/idle.py",
        "if moment != NEVER and self._until and min(self._until.values()) > moment:",
        "if moment == NEVER:",
        "test_session_bounds.py::test_the_earliest_deadline_counts_whatever_the_order",
        LATE,
        hangs=True,
    ),
    mutation(
        "a-mistake-of-ours-kills-the-worker",
        WORKERS,
        "    except BaseException as fault:  # a mistake of ours, or SystemExit: its requests fail, the worker lives",
        "    except KeyboardInterrupt as fault:",
        "test_merged_session.py::test_a_mistake_of_the_counting_fails_its_requests_and_no_worker",
        hangs=True,
    ),
    mutation(
        "failed-calls-teach-the-costs",
        GENERATION,
        "            return {}\n",
        "            return rows_of(done.requests)\n",
        "test_session_swap.py::test_failed_calls_teach_the_costs_nothing",
    ),
    mutation(
        "an-answered-request-keeps-its-inputs",
        WORKERS,
        "    request.answer = None\n    future.leave()\n",
        "",
        "test_session_bounds.py::test_an_answered_request_keeps_no_inputs",
    ),
    mutation(
        "submit-opens-sessions",
        GENERATION,
        "if not self.engine.is_open(request.model):",
        "if False:",
        "test_session_quick.py::test_a_model_whose_session_is_not_open_makes_nobody_wait_who_submits",
    ),
    mutation(
        "callbacks-call-each-other",
        SERVING,
        "if quick and not is_in_callback() else None",
        "if quick else None",
        "test_session_quick.py::test_callbacks_that_submit_the_next_request_make_no_deep_calls",
    ),
    mutation(
        "a-model-that-is-kept-out-joins-by-itself",
        GENERATION,
        "return not self.guard.is_calm and model in self.guard.kept_out(time.monotonic())",
        "return False",
        "test_openings.py::test_a_model_that_is_kept_out_runs_in_no_merged_call_though_its_session_is_not_open",
    ),
    mutation(
        "an-interrupted-queue-stays-as-it-is",
        QUEUE,
        "rest = [request for request in self.clear() if request is not without]",
        "rest: list[Request] = []",
        "test_session_interrupts.py::test_a_session_is_in_order_after_an_interrupt_anywhere",
    ),
)
