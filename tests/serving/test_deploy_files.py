"""The files in deploy/ speak of what there is."""

from __future__ import annotations

import json
import re

import yaml
from ray.serve.config import HTTPOptions
from ray.serve.schema import ServeDeploySchema
from ray.util import metrics as ray_metrics

from serving import metrics
from serving.arguments import Arguments
from serving.deployments import Ingress
from serving.local import FLAGS, REQUEST_TIMEOUT_S, http_options
from serving.schemas import MAX_DEADLINE_MS
from tests.end_to_end.command import ROOT

SERVES_OWN = {"ray_serve_deployment_queued_queries", "ray_serve_num_http_requests_total", "ray_serve_num_http_error_requests_total"}
PARTS = ("_bucket", "_sum", "_count")  # of histograms


def exported() -> set[str]:
    """Return the names under which our metrics reach Prometheus."""
    found: set[str] = set()
    for holder in (metrics.Metrics(), metrics.LlmMetrics()):
        for metric in vars(holder).values():
            if isinstance(metric, ray_metrics.Counter):
                found.add(f"ray_{metric.info['name']}_total")
            elif isinstance(metric, ray_metrics.Histogram):
                found.update(f"ray_{metric.info['name']}_{part}" for part in ("bucket", "sum", "count"))
            elif isinstance(metric, ray_metrics.Gauge):
                found.add(f"ray_{metric.info['name']}")
    return found


def test_the_dashboard_shows_metrics_that_are_exported_and_leaves_no_counter_or_gauge_out() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    queries = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    shown = set(re.findall(r"ray_\w+", queries))
    assert shown <= exported() | SERVES_OWN
    assert {name for name in exported() if not name.endswith(PARTS)} - shown == {"ray_tandem_llm_failures_total"}  # fallbacks, from below


def test_clients_that_left_are_no_errors_on_the_dashboard() -> None:
    dashboard = json.loads((ROOT / "deploy" / "grafana.json").read_text())
    (errors,) = (panel for panel in dashboard["panels"] if panel["title"] == "Errors")
    for target in errors["targets"]:
        assert re.search(r'(status|error_code)!="499"', target["expr"])


def test_serves_configuration_is_valid_and_names_what_there_is() -> None:
    plain = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text())
    config = ServeDeploySchema.model_validate(plain)
    assert config.http_options.host == "127.0.0.1"
    (application,) = config.applications
    arguments = Arguments.model_validate(application.args)
    assert HTTPOptions(**http_options("127.0.0.1", 8000)).request_timeout_s == config.http_options.request_timeout_s == REQUEST_TIMEOUT_S
    assert REQUEST_TIMEOUT_S > MAX_DEADLINE_MS / 1000 >= arguments.deadline_ms / 1000
    assert [deployment.name for deployment in application.deployments] == [Ingress.__name__]
    assert arguments.ingress_replicas >= 2, "one may die while the other answers"
    assert arguments.llm_replicas >= 2
    # Serve passes over keys that it does not know: all of ours must come back.
    assert set(plain["http_options"]) <= config.http_options.model_fields_set
    assert set(plain["applications"][0]) <= application.model_fields_set


def test_every_cluster_starts_ray_with_the_flags_that_were_chosen_by_measurement() -> None:
    settings, _ = yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text())
    assert FLAGS.items() <= settings["data"].items()
    commands = yaml.safe_load((ROOT / "cluster.yaml").read_text())["initialization_commands"]
    (exported,) = (line for line in commands if "RAY_SERVE" in line)
    assert exported == f"echo 'export {' '.join(f'{name}={value}' for name, value in FLAGS.items())}' >> ~/tandem/environment"
