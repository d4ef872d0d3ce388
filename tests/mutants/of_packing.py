"""Mistakes in what a request may be and in packing, each of which hands one request another one's values."""

from __future__ import annotations

from .mutation import Mutation, mutation

CONTRACT = "netfuse_onnx/runtime/contract.py"
PORTS = "netfuse_onnx/runtime/ports.py"
FAULTS = "netfuse_onnx/runtime/faults.py"
ELEMENTS = "netfuse_onnx/runtime/elements.py"
PADDING = "netfuse_onnx/runtime/padding.py"
PACKING = "netfuse_onnx/runtime/packing/__init__.py"
BUFFERS = "netfuse_onnx/runtime/packing/buffers.py"
FILL = "netfuse_onnx/runtime/packing/fill.py"
CUT = "netfuse_onnx/runtime/packing/cut.py"
EXPRESS = "netfuse_onnx/runtime/packing/express.py"
EACH = "test_runtime_packing.py::test_each_request_gets_what_its_model_computes"
APART = "test_runtime_packing.py::test_rows_that_may_not_be_apart_never_meet"
SLOTS = "test_runtime_packing.py::test_slots_without_a_request_hold_good_rows"
COPIES = "test_runtime_packing.py::test_outputs_are_copies_where_results_are_used_again"
SIZED = "test_runtime_packing.py::test_a_result_of_another_size_is_an_error"
ALIKE = "test_runtime_packing.py::test_requests_that_are_alike_are_packed_at_once"
OTHERS = "test_runtime_packing.py::test_requests_of_other_forms_are_refused"
ONE_CALL = "test_runtime_packing.py::test_buffers_are_used_by_one_call_at_a_time"
KEPT = "test_runtime_packing.py::test_few_buffers_are_kept"
BELOW = "test_runtime_packing.py::test_requests_of_one_model_stand_below_each_other"
FORMS = "test_contract.py::test_requests_that_may_not_share_a_call_have_other_forms"
BYTES = "test_contract.py::test_equal_bytes_of_other_shapes_are_not_one_input"
LOST = "test_contract.py::test_what_a_conversion_would_change_is_refused"
SHAPES = "test_contract.py::test_a_wrong_shape_is_told_with_the_right_one"
KNOWN_APART = "test_contract.py::test_rows_are_apart_where_that_is_known"
BATCH = "test_contract.py::test_the_batch_is_the_first_axis_and_no_other"
COPY = "test_contract.py::test_a_copy_is_not_changed_by_its_caller"
TYPES = "test_contract.py::test_an_array_must_have_the_type_of_its_input"
NAMES = "test_contract.py::test_names_are_those_of_the_compiler"
UNEQUAL = "test_buckets.py::test_unequal_lengths_share_a_call"
READS = "test_buckets.py::test_a_model_that_reads_the_padding_is_refused"

MUTATIONS: tuple[Mutation, ...] = (
    mutation("rows-that-may-meet-have-one-form", CONTRACT, "0 if self.apart else rows", "0", APART),
    mutation("bytes-of-shared-inputs-are-not-compared", CONTRACT,
             "            form = self._with_once(own, form, inputs, rows)", "            pass", FORMS),
    mutation("shapes-of-shared-inputs-are-not-compared", CONTRACT, "values.append((value.shape, ",
             "values.append(((), ", BYTES),
    mutation("rows-of-a-repeated-input-may-differ", CONTRACT, "if not _are_equal(value, port.element):", "if False:",
             "test_contract.py::test_one_row_stands_for_all_rows_of_a_routed_call"),
    mutation("rows-that-are-equal-have-other-bits", CONTRACT, "return rows.tobytes() == rows[:1].tobytes() * len(rows)",
             "return bool((rows == rows[:1]).all())",
             "test_contract.py::test_one_row_stands_for_all_rows_of_a_routed_call"),
    mutation("sequences-are-not-copied", CONTRACT, "else deepcopy(value) for", "else value for",
             "test_session_batches.py::test_a_sequence_that_waits_is_the_requests_own"),
    mutation("inputs-without-rows-are-those-of-one-request", CONTRACT,
             "if port.once or (self.side_by_side and not port.rows)", "if port.once",
             "test_contract.py::test_an_input_without_rows_is_equal_in_all_requests_of_a_batch"),
    mutation("a-copy-is-none-where-shapes-are-known", CONTRACT, "                    if copy:\n", "                    if False:\n",
             COPY),
    mutation("models-of-other-sizes-share-what-is-known", CONTRACT, "seen.setdefault(dims, {})",
             "seen.setdefault((), {})", "test_contract.py::test_models_of_other_sizes_are_checked_apart"),
    mutation("an-output-need-not-have-rows-to-be-cut", CONTRACT, "        if not port.rows:\n", "        if False:\n",
             KNOWN_APART),
    mutation("a-shared-batch-is-apart", CONTRACT, "port.rows and port.once and not port.repeated", "False",
             KNOWN_APART),
    mutation("inner-axes-are-batches", PORTS, "leading -= {dim for shape in shapes for dim in shape[1:]}", "pass",
             BATCH),
    mutation("one-of-several-batches-is-taken", PORTS, "found if len(found) == 1 else frozenset()", "found", BATCH),
    mutation("shared-inputs-have-prefixes", PORTS,
             "if self.once(side, first) or not edges.is_separate(self.io):",
             "if not edges.is_separate(self.io):", NAMES),
    mutation("a-symbol-has-two-sizes", FAULTS, "elif sizes.setdefault(dim, size) != size:",
             "elif sizes.setdefault(dim, size) is None:", SHAPES),
    mutation("no-rows-are-a-request", FAULTS,
             "    if port.rows and not given[0]:", "    if False:", SHAPES),
    mutation("large-whole-numbers-are-rounded", ELEMENTS, 'exact = given in "iub"', 'exact = given in "b"', LOST),
    mutation("whole-numbers-are-cast-to-others", ELEMENTS, "if native == wanted.dtype and",
             "if native.kind == wanted.dtype.kind and", TYPES),
    mutation("models-meet-in-a-slot", FILL, "places[request.model], request.inputs[k]",
             "places[0], request.inputs[k]", EACH),
    mutation("requests-of-a-model-start-at-one-row", PACKING, "start = ends.get(request.model, 0)", "start = 0",
             EACH),
    mutation("rows-name-the-first-model", FILL, "seat.start + seat.rows] = request.model",
             "seat.start + seat.rows] = requests[0].model", EACH),
    mutation("chosen-models-are-those-of-the-last-call", PACKING,
             "buffers.feeds[self.contract.file.ids][:] = list(slot)",
             "buffers.feeds[self.contract.file.ids][:] = range(count)", EACH),
    mutation("shared-inputs-are-those-of-the-last-call", FILL,
             "        self._shared(buffers, requests)\n        ids =", "        ids =", EACH),
    mutation("rows-meet-that-may-not", PACKING, "if not self.contract.apart and len(models) < len(requests):",
             "if False:", APART),
    mutation("requests-of-a-fixed-batch-are-concatenated", PACKING,
             "if len(requests) > 1 and not self.contract.side_by_side:", "if False:", APART),
    mutation("buffers-of-a-failed-call-are-used-again", PACKING, "if buffers is not None and not failed:",
             "if buffers is not None:", SLOTS),
    mutation("new-slots-are-not-filled", BUFFERS, "        self.fresh = True\n", "        self.fresh = False\n",
             SLOTS),
    mutation("buffers-serve-two-calls", BUFFERS, "return self.free[key].pop()", "return self.free[key][-1]",
             ONE_CALL),
    mutation("all-buffers-are-kept", BUFFERS, "if count > self.most or size > self.most_bytes:", "if False:",
             KEPT),
    mutation("another-form-is-padded", FILL, "if pad is None or not larger", "if not larger", OTHERS),
    mutation("outputs-share-the-memory-of-results", CUT,
             "values = [value.copy() for value in values]", "values = list(values)",
             COPIES),
    mutation("outputs-of-separate-models-are-not-copied", CUT, "(self.stacked or not fresh)", "self.stacked", COPIES),
    mutation("views-of-other-results-are-cut", CUT, "if known is not None and known[0] is result:",
             "if known is not None:", "test_runtime_packing.py::test_views_are_those_of_the_results"),
    mutation("rows-of-a-call-are-not-counted", CUT, "if found != size:", "if False:", SIZED),
    mutation("outputs-of-a-batch-begin-at-one-row", CUT, "start += request.rows", "start += 0", BELOW),
    mutation("padded-axes-are-not-cut-back", CUT, "if value.shape[axis] != size:", "if False:", UNEQUAL),
    mutation("other-shapes-are-alike", EXPRESS, "or value.shape != shape\n", "or False\n", ALIKE),
    mutation("inputs-go-into-the-slots-in-order", EXPRESS, "            if models != self.in_order:\n",
             "            if False:\n", ALIKE),
    mutation("outputs-have-names-in-order", CUT, "if ordered else [self.each[0].own[model] for model in models]",
             "if True else []", "test_runtime_packing.py::test_own_names_come_back_in_any_order"),
    mutation("bits-are-fed-as-numbers", "netfuse_onnx/runtime/calls.py", "if bits else session.run(wanted, feeds, options)",
             "if False else session.run(wanted, feeds, options)",
             "test_served_types.py::test_values_of_any_type_are_served"),
    mutation("an-engine-pads-unproven", "netfuse_onnx/runtime/engine.py", "        if not self.contract.buckets:\n",
             "        if True:\n", "test_served_types.py::test_an_engine_pads_only_what_is_proven"),
    mutation("the-proof-itself-pads", "netfuse_onnx/runtime/engine.py", "plain = self.contract.unpadded()",
             "plain = self.contract", "test_served_types.py::test_an_engine_pads_only_what_is_proven"),
    mutation("a-model-may-come-twice", EXPRESS, "return (known, models, values) if different else None",
             "return (known, models, values)", ALIKE),
    mutation("padding-of-the-first-model-alone-is-proven", PADDING, "_prove(contract, merged, every, sizes, seed)",
             "_prove(contract, merged, every[:1], sizes, seed)",
             "test_buckets.py::test_each_model_must_leave_out_the_padding"),
    mutation("padding-is-not-compared", PADDING, "return None if small else", "return None if True else", READS),
    mutation("shapes-after-padding-are-not-compared", PADDING, "if found.shape != expected.shape:",
             "if False:", READS),
    mutation("nothing-is-padded-for-the-proof", PADDING, "if high - low > 1:", "if False:",
             "test_buckets.py::test_sizes_lie_between_buckets", READS),
)  # fmt: skip
