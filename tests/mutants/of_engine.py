"""Mistakes in how sessions are opened, kept and called for serving."""

from __future__ import annotations

from .mutation import Mutation, mutation

CALLS = "netfuse_onnx/runtime/calls.py"
ENGINE = "netfuse_onnx/runtime/engine.py"
SOURCES = "netfuse_onnx/runtime/sources.py"
ORT = "netfuse_onnx/runtime/ort.py"
OWN = "netfuse_onnx/runtime/own.py"
PLACED = "netfuse_onnx/runtime/placed.py"
STREAMS = "netfuse_onnx/runtime/streams.py"
TIMING = "netfuse_onnx/runtime/timing.py"
THREADS = "netfuse_onnx/runtime/threads.py"
STAY = "test_engine.py::test_outputs_stay_as_they_are_when_later_calls_run"
ORDER = "test_engine.py::test_sources_in_another_order_are_refused"
FASTEST = "test_streams.py::test_the_fastest_way_is_chosen"
STEADY = "test_streams.py::test_calls_that_open_sessions_and_capture_graphs_teach_nothing"
POOL = "test_ort_sessions.py::test_sessions_share_the_pool_of_the_process_where_the_program_made_one"
FEWEST = "test_ort_sessions.py::test_the_quickest_call_of_those_that_serve_nearly_the_most"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "places-are-bound-to-outputs-that-are-inputs",
        "netfuse_onnx/runtime/calls.py",
        " and not gives_inputs(session)",
        "",
        "test_served_edges.py::test_an_odd_family_is_served_as_its_own_files_answer",
    ),
    mutation(
        "sequences-of-other-sizes-share-a-call",
        "netfuse_onnx/runtime/contract.py",
        "sizes[port.unknown] = outline(value)",
        "sizes[port.unknown] = 1",
        "test_served_edges.py::test_sequences_of_other_sizes_share_no_call",
    ),
    mutation(
        "sizes-of-a-models-own-file-go-into-merged-calls",
        ENGINE,
        "        if _is_own(requests) or not self.contract.answers:\n            return",
        "        if not self.contract.answers:\n            return",
        "test_served_edges.py::test_each_models_own_file_says_which_sizes_it_takes",
    ),
    mutation(
        "sizes-of-one-models-file-are-those-of-all",
        "netfuse_onnx/runtime/wider.py",
        "given = {arg.name: arg.shape for arg in self._session(model).get_inputs()}",
        "given = {arg.name: arg.shape for arg in self._session(0).get_inputs()}",
        "test_served_edges.py::test_each_models_own_file_says_which_sizes_it_takes",
    ),
    mutation(
        "an-axis-of-its-own-is-the-batch-of-a-routed-call",
        "netfuse_onnx/runtime/ports.py",
        "if port.repeated and not rows:",
        "if False:",
        "test_served_edges.py::test_each_models_own_file_says_which_sizes_it_takes",
    ),
    mutation(
        "a-routed-call-takes-the-sizes-of-the-first-model",
        "netfuse_onnx/runtime/ports.py",
        "call if isinstance(call, int) else dim for dim, call in pairs",
        "dim for dim, call in pairs",
        "test_served_edges.py::test_each_models_own_file_says_which_sizes_it_takes",
    ),
    mutation(
        "whole-numbers-have-a-rounded-mean",
        "netfuse_onnx/runtime/reduced.py",
        'if kind in FLOATS or (word == "sum" and value.dtype.name in SUMMABLE):',
        'if kind in FLOATS or value.dtype.name in SUMMABLE:',
        "test_reduced.py::test_what_has_no_combination_is_told",
    ),
    mutation("bound-outputs-are-given-out", CALLS, "return buffers.bound.results, False",
             "return buffers.bound.results, True", STAY),
    mutation("sources-may-come-in-any-order", SOURCES, "        if found in digests:\n", "        if False:\n", ORDER),
    mutation("sources-may-be-other-files", SOURCES,
             "        if len(digest) == len(found) and not _has_external_data(path):\n", "        if False:\n", ORDER),
    mutation("sessions-never-share-a-pool", ORT, "        if _SHARED not in str(error):\n            raise\n",
             "        raise\n", POOL),
    mutation("the-session-that-was-opened-first-is-closed-first", OWN,
             "            if session is not None:\n                self._kept.move_to_end(model)\n", "",
             "test_ort_sessions.py::test_the_session_that_was_used_longest_ago_is_closed_first"),
    mutation("sessions-are-kept-whatever-they-hold", OWN, "or self._bytes > self.most_bytes", "",
             "test_ort_sessions.py::test_sessions_are_kept_by_their_bytes_and_one_always"),
    mutation("captured-graphs-are-believed", PLACED, "self.graph = _close(expected, self.run())", "self.run()",
             "test_engine_cuda.py::test_a_graph_that_replays_old_values_is_not_used"),
    mutation("the-capture-of-a-graph-is-timed", TIMING, "        for _ in range(warm):\n            call(size)\n", "",
             FASTEST),
    mutation("calls-at-once-are-costed-as-merged", STREAMS, "at_once[: self.most]", "[]", FASTEST),
    mutation("calls-that-open-sessions-teach", STREAMS, "        if changes == self._known:\n            super()",
             "        if True:\n            super()", STEADY),
    mutation("all-sessions-are-said-to-fit", OWN, "            if held > self.most_bytes and count:\n", "            if False:\n",
             "test_streams.py::test_sessions_that_fit_are_counted_by_their_bytes_too"),
    mutation("the-quickest-call-is-chosen-whatever-it-serves", THREADS, "if CLOSE * _served(count, taken, have) >= most]",
             "]", FEWEST),
    mutation("one-call-at-a-time-is-counted", THREADS, "    return _at_a_time(threads, have) / max(taken, 1e-9)\n",
             "    return 1 / max(taken, 1e-9)\n", FEWEST),
    mutation("a-session-never-pays-to-open", OWN, "return not self._count or total >= self._seconds / self._count",
             "return not self._count", "test_openings.py::test_a_session_opens_when_as_much_is_lost_as_opening_takes"),
    mutation("a-session-opens-at-once", OWN, "return not self._count or total >= self._seconds / self._count",
             "return True", "test_openings.py::test_a_bundle_answers_before_all_its_sessions_are_open"),
    mutation("what-was-lost-counts-again", OWN, "        self._lost.pop(model, None)\n", "",
             "test_openings.py::test_a_session_opens_when_as_much_is_lost_as_opening_takes"),
    mutation("many-rows-run-merged", ENGINE, "        if rows > self._max_rows:\n            return float(\"inf\")\n", "",
             "test_openings.py::test_more_rows_than_a_merged_call_takes_open_the_session"),
    mutation("sessions-are-opened-twice-whatever-they-hold", ENGINE, "if chosen.on_all < 1 and paths and own.fits(times=2):",
             "if chosen.on_all < 1 and paths:",
             "test_wide_calls.py::test_models_that_do_not_fit_twice_have_no_wide_calls"),
    mutation("wide-calls-take-the-narrow-session", CALLS, "sessions = self.wide if wide and self.wide is not None else self.own",
             "sessions = self.own", "test_wide_calls.py::test_each_model_has_a_session_for_wide_calls"),
)  # fmt: skip
