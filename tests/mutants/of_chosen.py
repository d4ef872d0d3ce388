"""Mistakes in models that a call chooses, each of which hands a tenant another one's answer."""

from __future__ import annotations

from .mutation import Mutation, mutation

GUARDS = "netfuse_onnx/lower/guards.py"
TAKEN = "test_chosen.py::test_ids_are_checked_though_nothing_reads_them"
ROWS = "test_chosen.py::test_each_weight_is_that_of_the_chosen_model"

MUTATIONS: tuple[Mutation, ...] = (
    mutation("negative-ids-are-taken", GUARDS, 'emit("Or", below, above)', 'emit("Or", above, above)', ROWS),
    mutation(
        "ids-from-n-on-are-taken", GUARDS, 'emit("Or", below, above)', 'emit("Or", below, below)', TAKEN
    ),
    mutation(
        "the-checks-run-only-where-ids-are-read",
        GUARDS,
        "if chosen is None or not outputs or _reads(",
        "if True or _reads(",
        TAKEN,
    ),
    mutation(
        "rows-are-not-counted",
        GUARDS,
        'faults = emit("Add", faults, _unequal(emit, [ids, *rows]))',
        "pass",
        ROWS,
    ),
    mutation(
        "only-the-first-weight-is-gathered",
        "netfuse_onnx/emit/chosen.py",
        "        if not self.marked(x):\n            return x\n",
        "        if not self.marked(x) or (self._gathered and id(x) not in self._gathered):\n            return x\n",
        ROWS,
    ),
    mutation(
        "a-shared-weight-is-gathered",
        "netfuse_onnx/emit/chosen.py",
        "return SHARED if len(parts) == 1 else STACKED(0)",
        "return STACKED(0)",
        "test_chosen.py::test_a_weight_that_all_share_is_not_gathered",
    ),
    mutation(
        "rows-of-the-first-table",
        "netfuse_onnx/rules/index.py",
        "first = emit.of_each(np.arange(emit.total).reshape(-1, *[1] * rank) * rows + whole)",
        "first = emit.of_each(np.zeros(emit.total, np.int64).reshape(-1, *[1] * rank) + whole)",
        "test_chosen.py::test_only_the_rows_of_a_table_are_read",
    ),
    mutation(
        "a-constant-of-each-model-is-any-constant",
        "netfuse_onnx/emit/emitter.py",
        'np.asarray(values, dtype)), "of each")',
        "np.asarray(values, dtype)))",
        "test_chosen.py::test_a_constant_of_each_model_is_no_other_constant",
    ),
    mutation(
        "a-choice-is-proven-without-its-order",
        "netfuse_onnx/run/packing.py",
        "return (self.asked or tuple(every)[::-1]) if self.labels.ids else tuple(every)",
        "return (self.asked or tuple(every)) if self.labels.ids else tuple(every)",
        "test_packing.py::test_chosen_models_come_in_another_order",
    ),
    mutation(
        "wrong-ids-are-not-tried",
        "netfuse_onnx/prove/selection.py",
        "        taken += 1\n",
        "        continue\n",
        "test_chosen_proof.py::test_a_file_that_takes_any_id_is_not_proven",
    ),
)
