"""Mistakes in what a merged file records of its sources, and in giving them back."""

from __future__ import annotations

from .mutation import Mutation, mutation

WRITE, LIFECYCLE = "netfuse_onnx/write/", "netfuse_onnx/lifecycle/"
BACK = "test_split.py::test_each_source_comes_back_byte_for_byte"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "a-record-takes-the-first-weight-that-begins-alike",
        WRITE + "origins.py",
        "                if weights.same(weight, wanted):\n                    return reference",
        "                return reference",
        "test_origins.py::test_weights_that_begin_alike_are_told_apart",
    ),
    mutation(
        "verify-believes-the-record",
        "netfuse_onnx/prove/origins.py",
        "if _spelled(have, model) != _spelled(want, model) and not",
        "if _spelled(have, model) != _spelled(have, model) and not",
        "test_origins.py::test_verify_sees_a_record_that_lies",
    ),
    mutation(
        "changed-weights-come-out-as-the-models",
        LIFECYCLE + "split.py",
        "if not exact and not original.note:",
        "if not exact and original.note:",
        "test_origins.py::test_a_tool_that_changed_the_weights_is_seen",
    ),
    mutation(
        "a-record-names-any-path",
        WRITE + "packing.py",
        "if location and not inside(location):",
        "if location and not location:",
        "test_origins.py::test_a_damaged_record_is_a_file_fault",
    ),
    mutation(
        "a-file-of-another-content-is-replaced",
        LIFECYCLE + "split.py",
        "return self.force or filecmp.cmp(path, target, shallow=False)",
        "return True",
        "test_split.py::test_files_that_are_there_are_kept",
    ),
    mutation(
        "packed-weights-are-counted-in-elements",
        "netfuse_onnx/storage/undo.py",
        "start = before // 8",
        "start = before // max(bits, 8)",
        BACK,
    ),
)
