"""Mistakes in tune: what is measured, by which key it is kept, and how prices follow from it."""

from .mutation import mutation

MUTATIONS = (
    mutation(
        "a-key-without-attributes",
        "netfuse_onnx/tune/keys.py",
        "return step.op, step.domain, attrs, inputs,",
        "return step.op, step.domain, inputs,",
        "test_tune_probes.py::test_attributes_are_part_of_the_key",
    ),
    mutation(
        "a-key-without-sizes",
        "netfuse_onnx/tune/keys.py",
        "dims = layout.merged_dims(kind.dims or (), case.models)\n            yield",
        "dims = ()\n            yield",
        "test_tune_probes.py::test_the_sizes_of_all_values_of_a_chain_are_part_of_the_key",
    ),
    mutation(
        "a-key-without-indices",
        "netfuse_onnx/tune/keys.py",
        "decides = math.prod(parts[0].shape) == 1 or parts[0].dtype in INDEX_TYPES",
        "decides = False",
        "test_tune_probes.py::test_an_index_that_all_models_share_is_part_of_the_key",
    ),
    mutation(
        "copies-share-their-weights",
        "netfuse_onnx/tune/probes.py",
        'kept = {"", *one.inputs, *(x.name for x in one.model.graph.initializer if x.name not in one.recipes)}',
        'kept = {"", *one.inputs, *(x.name for x in one.model.graph.initializer)}',
        "test_tune_probes.py::test_copies_read_the_same_values_and_have_weights_of_their_own",
    ),
    mutation(
        "a-chain-past-another-reader",
        "netfuse_onnx/tune/chains.py",
        "if name in graph.outputs or any(reader not in region for reader in readers.get(name, ())):",
        "if name in graph.outputs:",
        "test_tune_probes.py::test_a_chain_ends_before_a_node_that_is_not_the_only_reader",
    ),
    mutation(
        "the-head-of-a-chain-pays-all",
        "netfuse_onnx/tune/survey.py",
        "parts[chain.parts[0][0]] = max(0.0, times[chain.key] - others)",
        "parts[chain.parts[0][0]] = times[chain.key]",
        "test_tune.py::test_the_shares_of_a_chain_add_up_to_its_time",
    ),
    mutation(
        "unmeasured-options-are-on-offer",
        "netfuse_onnx/tune/tuned.py",
        'return "" if self.is_timed(offer, resized(offer.site, self._priced)) else UNTIMED',
        'return ""',
        "test_tune.py::test_options_of_unknown_speed_are_on_offer_once_they_are_measured",
    ),
    mutation(
        "a-cache-without-the-others-times",
        "netfuse_onnx/tune/cache.py",
        "self._replace({**self.read(), **times})",
        "self._replace(dict(times))",
        "test_tune_cache.py::test_times_are_read_back",
    ),
    mutation(
        "a-cache-of-any-machine",
        "netfuse_onnx/tune/cache.py",
        'if value["version"] != VERSION or value["about"] != self.about:',
        'if value["version"] != VERSION:',
        "test_tune_cache.py::test_a_damaged_file_is_replaced",
    ),
)
