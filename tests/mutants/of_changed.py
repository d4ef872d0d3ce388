"""Mistakes about files that other tools have changed, and about what other runtimes run."""

from __future__ import annotations

from .mutation import Mutation, mutation

CHANGED, PORTABLE = "test_changed.py", "test_portable.py"
AFTERWARDS = "netfuse_onnx/prove/afterwards.py"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "every-file-counts-as-unchanged",
        AFTERWARDS,
        "    if then is not None and now.sha256 == then.sha256:\n",
        "    if then is not None:\n",
        CHANGED,
    ),
    mutation(
        "a-change-of-types-does-not-show",
        "netfuse_onnx/write/written.py",
        "            yield repr((tensor.name, tensor.data_type, list(tensor.dims)))\n",
        "            yield repr((tensor.name, list(tensor.dims)))\n",
        CHANGED,
    ),
    mutation(
        "a-quantised-file-is-compared-as-floats",
        "netfuse_onnx/prove/only_values.py",
        "    if changed and changed.how == QUANTISED:\n",
        "    if False:\n",
        CHANGED,
    ),
    mutation(
        "outputs-of-another-type-are-not-brought-back",
        "netfuse_onnx/prove/recast.py",
        "        return {name: _cast(value, self._wanted.get(name)) for name, value in found.items()}\n",
        "        return found\n",
        CHANGED,
    ),
    mutation(
        "the-precision-of-the-file-is-not-looked-at",
        "netfuse_onnx/prove/lineage.py",
        "        worst = max(line.precision, precisions.get(name, line.precision), key=NAMES.index)\n",
        "        worst = line.precision\n",
        CHANGED,
    ),
    mutation(
        "portable-raises-the-opset-all-the-same",
        "netfuse_onnx/load/opset.py",
        "    goals = goals[-1:] if keep else goals\n",
        "",
        PORTABLE,
    ),
    mutation(
        "a-product-that-repeats-a-matrix-is-on-offer",
        "netfuse_onnx/plan/refusals.py",
        "    return broadcasts_matrices(step)\n",
        "    return False\n",
        PORTABLE,
    ),
    mutation(
        "verify-forgets-that-a-file-is-portable",
        "netfuse_onnx/opened.py",
        "            portable=about.portable,\n",
        "",
        PORTABLE,
    ),
)
