"""Mistakes in adapters: their files, the names that match, the products, and the files that prove them."""

from .mutation import mutation

MUTATIONS = (
    mutation(
        "adapters-without-padding-rank",
        "netfuse_onnx/load/adapters.py",
        "self.ranks[target.weight] = max(rank, self.ranks.get(target.weight, 0))",
        "self.ranks[target.weight] = rank",
        "test_adapters.py::test_each_exporters_file_merges_with_adapters",
    ),
    mutation(
        "adapters-scale-forgotten",
        "netfuse_onnx/load/adapters.py",
        "_padded(_scaled(pair.b, pair.scale, dtype), form.side, shapes[1])",
        "_padded(_scaled(pair.b, 1.0, dtype), form.side, shapes[1])",
        "test_adapters.py::test_the_scale_is_that_of_peft",
    ),
    mutation(
        "adapters-any-prefix",
        "netfuse_onnx/load/matching.py",
        "if len(whole) == 1 or _Prefix() in whole:",
        "if whole:",
        "test_adapters.py::test_two_places_of_one_name_are_an_error",
    ),
    mutation(
        "adapters-layers-as-prefix",
        "netfuse_onnx/load/matching.py",
        "numbered = any(name.isdecimal() for name in (*prefix.removed, *prefix.added))",
        "numbered = False",
        "test_adapters.py::test_layers_are_no_prefix",
    ),
    mutation(
        "adapters-tied-weights",
        "netfuse_onnx/load/matching.py",
        "if (users - own if own else len(users) > 1) or through - own:",
        "if through - own:",
        "test_adapters.py::test_a_weight_of_two_modules_is_no_target",
    ),
    mutation(
        "adapters-rslora-as-lora",
        "netfuse_onnx/load/lora.py",
        "return alpha / (math.sqrt(rank) if self._rslora else rank)",
        "return alpha / rank",
        "test_adapters.py::test_the_scale_is_that_of_peft",
    ),
    mutation(
        "adapters-proof-without-the-product",
        "netfuse_onnx/load/folded.py",
        "values = weights.array(base).astype(values.dtype) + values",
        "values = weights.array(base)",
        "test_adapters.py::test_sources_of_the_proof_have_the_products_folded_in",
    ),
    mutation(
        "adapters-replaced-as-they-are",
        "netfuse_onnx/load/adapters.py",
        "change = replace(change, transposed=change.transposed and not (kept and tensor.shape == weight.shape))",
        "change = replace(change, transposed=False)",
        "test_adapters.py::test_a_tensor_that_is_saved_whole_replaces_the_bases",
    ),
    mutation(
        "adapters-files-stay",
        "netfuse_onnx/load/folded.py",
        "        remove([path])\n",
        "        pass\n",
        "test_adapters.py::test_sources_of_the_proof_have_the_products_folded_in",
    ),
    mutation(
        "safetensors-overlaps",
        "netfuse_onnx/storage/safetensors.py",
        "if begin != at:",
        "if begin > at:",
        "test_safetensors.py::test_damaged_files_are_one_sentence",
    ),
    mutation(
        "digest-of-the-adapter-forgotten",
        "netfuse_onnx/write/digests.py",
        "(own[: len(own) - count], own[len(own) - count :])",
        "(own[: len(own) - count], own[:1] if count else [])",
        "test_adapters.py::test_verify_tells_another_adapter",
    ),
)
