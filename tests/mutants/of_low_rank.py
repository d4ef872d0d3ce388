"""Mistakes in low-rank differences: what is found, how it is stored, and how it is proven."""

from .mutation import mutation

MUTATIONS = (
    mutation(
        "factors-of-any-error",
        "netfuse_onnx/rewrite/factors.py",
        "            holds = error <= 1.0 and not self._beyond_noise(rank, rest)\n",
        "            holds = not self._beyond_noise(rank, rest)\n",
        "test_factors.py::test_a_tolerance_lowers_the_rank",
    ),
    mutation(
        "small-differences-are-dropped",
        "netfuse_onnx/rewrite/factors.py",
        "            holds = error <= 1.0 and not self._beyond_noise(rank, rest)\n",
        "            holds = error <= 1.0\n",
        "test_factors.py::test_a_small_difference_is_not_dropped",
    ),
    mutation(
        "rows-of-zeros-may-be-anything",
        "netfuse_onnx/storage/numbers.py",
        "    exponents = np.where(numbers == 0, least, np.maximum(np.frexp(numbers)[1], least))\n",
        "    exponents = np.maximum(np.frexp(numbers)[1], least)\n",
        "test_factors.py::test_numbers_are_those_of_numpy",
    ),
    mutation(
        "half-precision-without-a-base",
        "netfuse_onnx/rewrite/low_rank.py",
        "    if parts[0].dtype in HALF and not base.given:\n",
        "    if False:\n",
        "test_low_rank.py::test_half_precision_needs_the_base",
    ),
    mutation(
        "ranks-padded-on-one-side",
        "netfuse_onnx/rewrite/low_rank.py",
        "        more = rank - len(right)\n",
        "        more = 0 if len(right) else rank\n",
        "test_low_rank.py::test_ranks_are_padded_to_the_largest",
    ),
    mutation(
        "the-sum-of-model-0-for-all",
        "netfuse_onnx/prove/factors.py",
        "    left, right = each.form.matrices(array(each.a[model]), array(each.b[model]))\n",
        "    left, right = each.form.matrices(array(each.a[0]), array(each.b[0]))\n",
        "test_low_rank.py::test_differences_from_a_base_are_found",
    ),
    mutation(
        "a-sum-of-any-error",
        "netfuse_onnx/prove/factors.py",
        "        if not error <= 1.0:\n",
        "        if error > 1e30:\n",
        "test_low_rank.py::test_factors_of_exchanged_models_are_found",
    ),
    mutation(
        "the-sum-is-no-part-of-the-answer",
        "netfuse_onnx/report.py",
        "        others = (self.reconstruction, self.views, self.kept)\n",
        "        others = (self.views, self.kept)\n",
        "test_low_rank.py::test_one_changed_element_is_found",
    ),
    mutation(
        "branches-forget-alpha",
        "netfuse_onnx/load/branches.py",
        '            attrs = _only(node, "transA"), _only(node, "alpha")\n',
        '            attrs = _only(node, "transA"), {}\n',
        "test_branches.py::test_a_branch_gives_what_the_whole_weight_gives",
    ),
    mutation(
        "the-rounding-of-a-sum-is-not-measured",
        "netfuse_onnx/prove/noise.py",
        "(moved and moving) or source",
        "source",
        "test_low_rank.py::test_the_rounding_of_other_sums_is_no_difference",
    ),
    mutation(
        "the-rounding-of-an-element-for-that-of-its-row",
        "netfuse_onnx/load/folded.py",
        "    by_row = change.a is None and change.replaced is None\n",
        "    by_row = False\n",
        "test_low_rank.py::test_the_rounding_of_other_sums_is_no_difference",
    ),
    mutation(
        "squares-that-vanish-are-zeros",
        "netfuse_onnx/rewrite/factors.py",
        "        if any(block.any() for block, _ in difference.blocks()):\n",
        "        if False:\n",
        "test_factors.py::test_a_difference_whose_squares_vanish_is_not_dropped",
    ),
)
