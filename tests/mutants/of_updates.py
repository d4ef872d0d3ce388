"""Mistakes in update, add and remove: a change that another one undoes, a proof that does not count."""

from __future__ import annotations

from .mutation import Mutation, mutation

FAULTS, PROOFS = "test_update_faults.py::", "test_update_proofs.py::"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "a-merged-file-may-change-while-it-is-updated",
        "netfuse_onnx/write/digests.py",
        "**(others or {})",
        "**{}",
        FAULTS + "test_two_changes_at_once",
    ),
    mutation(
        "the-last-look-is-taken-without-the-lock",
        "netfuse_onnx/write/writer.py",
        "self._staging.place(self._data, self._sources.confirm)",
        "self._staging.place(self._data)",
        FAULTS + "test_two_changes_at_once",
    ),
    mutation(
        "models-that-were-changed-in-the-file-stay",
        "netfuse_onnx/write/digests.py",
        "if _joined(held) != original.digest:",
        "if False:",
        PROOFS + "test_a_file_that_another_tool_has_changed",
    ),
    mutation(
        "what-the-old-file-gave-does-not-count",
        "netfuse_onnx/report.py",
        "others = (self.reconstruction, self.views, self.kept)",
        "others = (self.reconstruction, self.views)",
        PROOFS + "test_the_file_as_it_was_says_what_stays",
    ),
    mutation(
        "the-old-file-is-fed-by-the-new-places",
        "netfuse_onnx/prove/kept.py",
        "now = after.get(before, before if before < trial.family.models else 0)",
        "now = min(before, trial.family.models - 1)",
        PROOFS + "test_proofs_whatever_the_edge",
    ),
    mutation(
        "a-changed-file-forgets-its-data-file",
        "netfuse_onnx/lifecycle/before.py",
        "data=about.data",
        'data="auto"',
        FAULTS + "test_another_target_leaves_the_file_alone",
    ),
    mutation(
        "a-copy-stands-for-all-that-is-there",
        "netfuse_onnx/storage/weights.py",
        "if there and part.data == Extent(there, offset - run * size, nbytes(part)):",
        "if there:",
        FAULTS + "test_a_copy_that_is_begun_early",
    ),
)
