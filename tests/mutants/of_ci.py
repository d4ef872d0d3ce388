"""Mistakes in what CI reads, and in the export from PyTorch: a no that looks like a yes, another file's name."""

from __future__ import annotations

from .mutation import Mutation, mutation

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "digests-in-any-order-are-a-yes",
        "netfuse_onnx/source_digests.py",
        "    if digest == recorded:\n",
        "    if digest in about.sha256:\n",
        "test_digests.py::test_the_order_counts",
    ),
    mutation(
        "a-source-has-the-digest-of-its-first-file",
        "netfuse_onnx/source_digests.py",
        "    return [[wire.scan(path).files] for path in paths]",
        "    return [[wire.scan(path).files[:1]] for path in paths]",
        "test_digests.py::test_external_data_is_part_of_a_source",
    ),
    mutation(
        "junit-replaces-any-file",
        "cli/junit_file.py",
        "    return not begin or OURS in begin",
        "    return True",
        "test_junit.py::test_what_is_no_junit_file_is_not_replaced",
    ),
    mutation(
        "junit-calls-what-was-not-proven-a-success",
        "cli/junit.py",
        "    if row.ok:\n        return Case(owner, row.output, told=told)",
        "    if not row.differs:\n        return Case(owner, row.output, told=told)",
        "test_junit.py::test_what_was_not_proven_is_an_error_and_what_was_not_made_is_skipped",
    ),
    mutation(
        "junit-holds-control-characters",
        "cli/junit.py",
        '    encoded = printable(text).encode("utf-8", "backslashreplace").decode()',
        '    encoded = text.encode("utf-8", "backslashreplace").decode()',
        "test_junit.py::test_any_name_makes_a_document",
    ),
    mutation(
        "the-hook-takes-merged-files-for-models",
        "cli/hook.py",
        "models = [path for path in paths if not _is_merged(path)]",
        "models = paths",
        "test_ci.py::test_a_folder_is_a_family_without_its_merged_file",
    ),
    mutation(
        "the-hook-tells-the-last-family-only",
        "cli/hook.py",
        "code = max(code, _check(models, partial))",
        "code = _check(models, partial)",
        "test_ci.py::test_a_pointer_of_git_lfs_and_a_second_family_after_it",
    ),
    mutation(
        "an-export-leaves-modules-in-evaluation-mode",
        "netfuse_onnx/pytorch/models.py",
        "            part.training = True\n",
        "            part.training = part.training\n",
        "test_pytorch.py::test_training_mode_is_left_for_the_export_alone",
    ),
    mutation(
        "an-export-is-not-compared-with-its-modules",
        "netfuse_onnx/pytorch/proof.py",
        "        self._refuse()\n",
        "",
        "test_pytorch.py::test_a_merged_file_that_differs_from_a_module_is_not_written",
    ),
    mutation(
        "arguments-by-name-keep-the-order-of-the-call",
        "netfuse_onnx/pytorch/models.py",
        "    return args, dict(sorted(kwargs.items(), key=lambda item: places.get(item[0], last)))",
        "    return args, dict(kwargs)",
        "test_pytorch.py::test_keyword_arguments_come_in_the_order_of_forward",
    ),
)
