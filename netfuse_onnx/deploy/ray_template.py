"""The text of an app of Ray Serve, with places for names in braces."""

TEMPLATE = '''"""Serves {count} on Ray Serve. Written by netfuse-onnx {version}; change it as you like.

serve run {module}:app
serve run {module}:app bundles=/mnt/models      (bundles in another folder, the same on all machines)
serve run {module}:app {family}=/mnt/models/new      (one bundle elsewhere; an app that runs changes to it)
"""

from pathlib import Path

from netfuse_onnx.server.ray import Family, Router, located, models, served
from ray import serve
from ray.serve import Application

BUNDLES = Path(__file__).parent{folder}
FAMILIES = {{
{rows}}}  # and their bundles


def app(args: dict[str, str]) -> Application:
    """Return the app: a router in front of all families."""
    families = {{name: family(name, bundle) for name, bundle in located(args, BUNDLES, FAMILIES).items()}}
    return serve.deployment(
        Router,
        name="router",
        ray_actor_options={{"num_cpus": 0}},  # it passes requests on, as Ray's own proxies do
        autoscaling_config={{"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 64}},
        max_ongoing_requests=1024,
        max_queued_requests=1024,
    ).bind(families)


def family(name: str, bundle: str) -> Application:
    """Return the deployment of a family, whose replicas each merge the requests that they get."""
    busy = max(8, 2 * len(models(bundle)))  # a merged call runs, and the requests of the next one gather
    return serve.deployment(
        Family,
        name=name,
        user_config=served(bundle),
        ray_actor_options={{"num_cpus": 1}},  # calls that run at a time; on a GPU: {{"num_gpus": 1}}
        autoscaling_config={{"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": busy}},
        max_ongoing_requests=8 * busy,  # of these a replica chooses those of the next call
        max_queued_requests=32 * busy,  # wait for a replica; more are refused
        health_check_period_s=10,
        graceful_shutdown_timeout_s=30,
        logging_config={{"enable_access_log": False}},  # the router has a line for each request
    ).bind()  # takes options of MergedSession: bind(providers=["CUDAExecutionProvider"])
'''
