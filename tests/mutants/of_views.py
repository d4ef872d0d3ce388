"""Mistakes in bundles: views, their ranges, and the folder."""

from .mutation import mutation

MUTATIONS = (
    mutation(
        "every-region-begins-where-the-first-does",
        "netfuse_onnx/write/regions.py",
        "        start += bits // 8\n",
        "",
        "test_views.py::test_ranges_hold_the_sources_bytes_whatever_the_plan",
    ),
    mutation(
        "a-bundle-moves-weights",
        "netfuse_onnx/lower/finish.py",
        "unmoved=corr.unmoved",
        "unmoved=False",
        "test_views.py::test_ranges_hold_the_sources_bytes_whatever_the_plan",
    ),
    mutation(
        "verify-forgets-that-weights-stay",
        "netfuse_onnx/opened.py",
        "        family = replace(family, unmoved=about.unmoved)\n",
        "",
        "test_views.py::test_ranges_hold_the_sources_bytes_whatever_the_plan",
    ),
    mutation(
        "equal-weights-are-stored-again-for-each-view",
        "netfuse_onnx/write/views.py",
        "        if key not in self._places:\n",
        "        if True:\n",
        "test_views.py::test_what_the_merged_file_does_not_hold_is_stored_once_more",
    ),
    mutation(
        "views-are-right-whatever-they-give",
        "netfuse_onnx/prove/views.py",
        "            if same_bits(got[name], value):\n",
        "            if True:\n",
        "test_views.py::test_a_failed_proof_leaves_the_old_bundle",
    ),
    mutation(
        "a-view-that-differs-is-called-random",
        "netfuse_onnx/prove/views.py",
        "if not same_bits(again[name], value) and _alike",
        "if _alike",
        "test_views.py::test_a_failed_proof_leaves_the_old_bundle",
    ),
    mutation(
        "views-are-no-part-of-the-answer",
        "netfuse_onnx/report.py",
        "        others = (self.reconstruction, self.views)\n",
        "        others = (self.reconstruction,)\n",
        "test_views.py::test_a_failed_proof_leaves_the_old_bundle",
    ),
    mutation(
        "a-failed-analysis-says-that-rows-are-apart",
        "netfuse_onnx/plan/batch.py",
        '        return Batch(symbols, rows, f"It is unknown: {type(error).__name__}: {said}.")\n',
        "        return Batch(symbols, rows)\n",
        "test_views.py::test_an_analysis_that_fails_or_takes_long_is_a_reason",
    ),
    mutation(
        "a-view-may-read-any-region",
        "netfuse_onnx/bundle_check.py",
        "            return owners is None or model in owners\n",
        "            return True\n",
        "test_views.py::test_a_view_that_reads_another_models_weights_is_found",
    ),
    mutation(
        "hashes-are-not-compared",
        "netfuse_onnx/bundle_check.py",
        "        elif digest_of(path) != file.sha256:\n",
        "        elif False:\n",
        "test_views.py::test_a_file_with_another_byte_is_found",
    ),
    mutation(
        "another-ones-file-is-overwritten",
        "netfuse_onnx/write/bundle.py",
        "    if not same:\n",
        "    if False:\n",
        "test_views.py::test_no_file_of_another_is_overwritten",
    ),
    mutation(
        "all-files-beside-a-bundle-go",
        "netfuse_onnx/write/bundle.py",
        "        return digest_of(path).startswith(match[1])\n",
        "        return True\n",
        "test_views.py::test_a_new_bundle_takes_the_place_of_the_old_one",
    ),
    mutation(
        "a-manifest-may-name-any-file",
        "netfuse_onnx/runtime/bundle.py",
        "    if odd or name in",
        "    if name in",
        "test_views.py::test_a_manifest_names_files_of_its_own_folder_alone",
    ),
    mutation(
        "a-replaced-bundle-is-not-opened-again",
        "netfuse_onnx/runtime/bundle.py",
        "_stamp(folder) == before",
        "True",
        "test_views.py::test_a_reader_sees_one_bundle_or_the_other",
    ),
)
