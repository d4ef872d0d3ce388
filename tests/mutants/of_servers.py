"""Mistakes in servers, exports and plans of fleets: another model's answer, a path from a request, a machine
that holds more than it can."""

from __future__ import annotations

from .mutation import Mutation, mutation

SERVER, DEPLOY, FLEET = "netfuse_onnx/server/", "netfuse_onnx/deploy/", "netfuse_onnx/fleet/"
ROWS = "test_server_family.py::test_rows_are_answered_by_their_models_in_order"
PLANS = "test_fleet_plans.py::test_plans_place_every_model_within_memory_and_load_and_are_deterministic"

MUTATIONS: tuple[Mutation, ...] = (
    mutation(
        "rows-of-a-family-come-in-the-order-of-models",
        SERVER + "family.py",
        "return tensor, joined[order]",
        "return tensor, joined",
        ROWS,
    ),
    mutation(
        "rows-that-mix-share-a-request",
        SERVER + "family.py",
        "if not self._whole:",
        "if not self._first.batched:",
        ROWS,
        "test_server_family.py",
    ),
    mutation(
        "a-negative-place-counts-from-the-end",
        SERVER + "family.py",
        "if not 0 <= place < count:",
        "if not -count <= place < count:",
        "test_server_family.py::test_rows_that_name_no_model",
    ),
    mutation(
        "a-load-takes-a-path",
        SERVER + "repository.py",
        "if isinstance(given, str) and is_base_name(given):",
        "if isinstance(given, str):",
        "test_server_repository.py::test_what_no_request_may_load",
    ),
    mutation(
        "a-load-follows-links-out-of-its-folder",
        SERVER + "repository.py",
        "if os.path.lexists(path) and stays_inside(root, path):",
        "if os.path.lexists(path):",
        "test_server_repository.py::test_what_no_request_may_load",
    ),
    mutation(
        "names-of-old-files-meet-new-ones",
        SERVER + "repository.py",
        "        core.catalog = fresh\n",
        "        core.catalog = core.catalog\n",
        "test_server_repository.py",
    ),
    mutation(
        "a-draining-server-takes-requests",
        SERVER + "core.py",
        "if not self.is_ready:",
        "if self.is_ready is None:",
        "test_server_ends.py::test_what_was_accepted_is_answered_and_the_rest_refused",
    ),
    mutation(
        "bytes-that-are-held-have-no-bound",
        SERVER + "core.py",
        "if self.held + size > self.options.max_held:",
        "if size > self.options.max_held:",
        "test_server_limits.py::test_all_requests_together_have_a_bound",
    ),
    mutation(
        "bytes-after-the-last-string-are-ignored",
        SERVER + "tensors.py",
        "    if at != end:\n",
        "    if at > end:\n",
        "test_server_tensors.py",
    ),
    mutation(
        "triton-answers-a-batch-by-its-first-model",
        DEPLOY + "triton_requests.py",
        "if (index != index[0]).any():",
        "if index[0] < 0:",
        "test_triton_requests.py::test_a_batch_of_fixed_size_is_of_one_model",
    ),
    mutation(
        "a-machine-holds-more-than-its-memory",
        FLEET + "rules.py",
        "return use.memory <= self.fleet.kinds[kind].memory and use.load <= use.most * CLOSE",
        "return use.load <= use.most * CLOSE",
        PLANS,
        "test_fleet_plans.py",
    ),
    mutation(
        "a-machine-has-more-load-than-its-targets-allow",
        FLEET + "rules.py",
        "return use.memory <= self.fleet.kinds[kind].memory and use.load <= use.most * CLOSE",
        "return use.memory <= self.fleet.kinds[kind].memory",
        PLANS,
        "test_fleet_plans.py",
    ),
    mutation(
        "a-dearer-plan-is-kept",
        FLEET + "planning.py",
        "if not best.is_good or tried.plan.price < best.plan.price * (1 - ALIKE):",
        "if not best.is_good:",
        "test_fleet_choice.py",
    ),
)
