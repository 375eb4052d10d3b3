"""The application that Ray Serve runs: `serve run serving.app:build model=...`."""

# No `from __future__ import annotations` here: Serve reads the type of `build`'s argument as it stands, and a name would be no type.

import logging
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.deployment import Application
from ray.serve.schema import LoggingConfig

from serving.arguments import Arguments
from serving.checkout import runs
from serving.deployments import Crm, Ingress, Llm
from serving.errors import RETRY_AFTER_S
from serving.events import EventStoreError, check_store
from serving.model import resolve
from serving.schemas import MAX_DEADLINE_MS

LOGGER = logging.getLogger("ray.serve")
STOP_S = MAX_DEADLINE_MS / 1000 + 5  # at most: a process that answers nobody stops at once, one that does answers first
BESIDE = 100  # percent: all of a new version starts beside the old one and takes over when it is ready
STARTS = 3  # attempts at a constructor before a deployment is given up


def build(arguments: Arguments) -> Application:
    """Return the application; raises ArtifactError where the model is missing or damaged: what runs already then goes on running.

    Raises ConfigError where the arguments leave out what has no default here, or name a store that would lose events.
    """
    model = resolve(arguments.model, arguments.tracking_uri)
    arguments = arguments.model_copy(update={"events": arguments.events or _events()})
    try:
        check_store(arguments.events)
    except EventStoreError as error:  # seen from here; no process needs it to start
        LOGGER.warning("%s; until it answers, histories lack their events and none is taken", error)
    common = _common(arguments)
    llm = serve.deployment(
        **_replicas(arguments.llm_replicas, arguments.llm_max_replicas, arguments.llm_max_ongoing_requests),
        max_ongoing_requests=arguments.llm_max_ongoing_requests,
        max_queued_requests=arguments.llm_max_queued_requests,
        ray_actor_options={"num_cpus": arguments.llm_cpus, "num_gpus": arguments.llm_gpus},
        max_surge_percent=BESIDE if arguments.llm_surge else 0,
        **common,
    )(Llm).bind(model, arguments)
    crm = None
    if arguments.crm_replicas:
        crm = serve.deployment(
            **_replicas(arguments.crm_replicas, arguments.crm_max_replicas, arguments.max_ongoing_requests),
            max_ongoing_requests=arguments.max_ongoing_requests,
            max_queued_requests=arguments.max_queued_requests,
            ray_actor_options={"num_cpus": arguments.ingress_cpus},
            max_surge_percent=BESIDE,
            **common,
        )(Crm).bind(model, arguments.crm_threads)
    return serve.deployment(
        **_replicas(arguments.ingress_replicas, arguments.ingress_max_replicas, arguments.max_ongoing_requests),
        # Twice what a process answers: it refuses the rest itself, as JSON and with what the client needs to try again.
        max_ongoing_requests=2 * arguments.max_ongoing_requests,
        max_queued_requests=arguments.max_queued_requests,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=float(RETRY_AFTER_S)),
        ray_actor_options={"num_cpus": arguments.ingress_cpus},
        max_surge_percent=BESIDE,
        **common,
    )(Ingress).bind(model, arguments, llm, crm)


def _events() -> str:
    return f"sqlite:///{runs('events: expected sqlite:////absolute/path.db or redis://HOST:PORT/DB')}/events.db"


def _common(arguments: Arguments) -> dict[str, Any]:
    return {
        "max_constructor_retry_count": STARTS,
        "graceful_shutdown_timeout_s": STOP_S,
        "health_check_period_s": arguments.health_check_period_s,
        "health_check_timeout_s": arguments.health_check_timeout_s,
        "logging_config": LoggingConfig(enable_access_log=False),
    }


def _replicas(least: int, most: int, ongoing: int) -> dict[str, Any]:
    if most <= least:
        return {"num_replicas": least}
    return {"autoscaling_config": AutoscalingConfig(min_replicas=least, max_replicas=most, target_ongoing_requests=max(1, ongoing // 2))}
