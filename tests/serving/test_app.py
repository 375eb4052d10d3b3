"""Typed arguments -> the application that Ray Serve runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve.deployment import Application, Deployment

from components.errors import ConfigError
from serving.access import require_shared_events
from serving.app import build
from serving.checkout import runs
from serving.local import settings_of


def deployments(application: Application) -> dict[str, Deployment]:
    """Return the deployments of an application by name."""
    ingress: Any = application._bound_deployment
    others = [each._bound_deployment for each in ingress.init_args if isinstance(each, Application)]
    return {each.name: each for each in (ingress, *others)}


def built(ensemble: Path, **settings: str) -> dict[str, Deployment]:
    """Build as `serve run serving.app:build key=value ...` does: every value is a text."""
    return deployments(call_user_app_builder_with_args_if_necessary(build, {"model": str(ensemble), **settings}))


def test_the_crm_lives_in_the_ingress_unless_it_is_given_processes(ensemble: Path) -> None:
    assert set(built(ensemble)) == {"Ingress", "Llm"}
    found = built(ensemble, crm_replicas="3")
    assert set(found) == {"Ingress", "Llm", "Crm"}
    assert found["Crm"].num_replicas == 3


def test_each_deployment_scales_between_its_own_bounds(ensemble: Path) -> None:
    most = {"ingress_max_replicas": "6", "llm_max_replicas": "4", "crm_max_replicas": "3"}
    found = built(ensemble, ingress_replicas="2", crm_replicas="1", llm_max_ongoing_requests="10", **most)
    bounds = {name: each._deployment_config.autoscaling_config for name, each in found.items()}
    ingress, llm, crm = bounds["Ingress"], bounds["Llm"], bounds["Crm"]
    assert ingress is not None
    assert llm is not None
    assert crm is not None
    assert (ingress.min_replicas, ingress.max_replicas) == (2, 6)
    assert (crm.min_replicas, crm.max_replicas) == (1, 3)
    assert (llm.min_replicas, llm.max_replicas, llm.target_ongoing_requests) == (1, 4, 5), "more when half of what one holds is asked"


def test_without_an_upper_bound_the_number_of_processes_is_fixed(ensemble: Path) -> None:
    found = built(ensemble, llm_replicas="2")
    assert {name: (each.num_replicas, each._deployment_config.autoscaling_config) for name, each in found.items()} == {
        "Ingress": (1, None),
        "Llm": (2, None),
    }


def test_queues_are_bounded_and_what_is_refused_may_be_tried_again(ensemble: Path) -> None:
    llm = {"llm_max_ongoing_requests": "3", "llm_max_queued_requests": "2"}
    found = built(ensemble, max_ongoing_requests="8", max_queued_requests="5", crm_replicas="1", **llm)
    assert {name: (each.max_ongoing_requests, each.max_queued_requests) for name, each in found.items()} == {
        "Ingress": (16, 5),  # it answers 8 and tells as many others itself that it is busy
        "Llm": (3, 2),
        "Crm": (8, 5),
    }


def test_a_new_version_starts_beside_the_old_one_but_for_an_llm_whose_gpu_is_not_spare(ensemble: Path) -> None:
    surges = [
        {name: each._deployment_config.max_surge_percent for name, each in built(ensemble, crm_replicas="1", **settings).items()}
        for settings in ({}, {"llm_surge": "false"})
    ]
    assert surges == [{"Ingress": 100, "Llm": 100, "Crm": 100}, {"Ingress": 100, "Llm": 0, "Crm": 100}]


def test_a_process_that_stops_has_time_for_the_longest_deadline(ensemble: Path) -> None:
    found = built(ensemble, crm_replicas="1")
    assert {each._deployment_config.graceful_shutdown_timeout_s for each in found.values()} == {65.0}


def test_an_upper_bound_below_the_lower_is_refused(ensemble: Path) -> None:
    with pytest.raises(ValueError, match=r"llm_max_replicas: expected 0, or at least llm_replicas \(3\), got 2"):
        built(ensemble, llm_replicas="3", llm_max_replicas="2")


def test_runs_lie_in_the_checkout_and_never_beside_installed_code_or_rays_copies(tmp_path: Path) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files"
    for folder in (tmp_path, copy):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pyproject.toml").touch()
    assert runs("events: expected an address", tmp_path) == tmp_path / "runs"
    for folder in (tmp_path / "site-packages", copy):
        with pytest.raises(ConfigError, match=rf"^events: expected an address where the code, at {folder}, is no checkout$"):
            runs("events: expected an address", folder)


def test_served_from_a_folder_events_and_registered_models_lie_below_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert settings_of(["deadline_ms=5", "api_key_file=a=b"]) == {
        "events": f"sqlite:///{tmp_path}/runs/events.db",
        "tracking_uri": f"sqlite:///{tmp_path}/runs/mlflow.db",
        "deadline_ms": "5",
        "api_key_file": "a=b",
    }
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert settings_of(["events=redis://r:1/0"]) == {"events": "redis://r:1/0", "tracking_uri": "http://mlflow:5000"}
    with pytest.raises(ConfigError, match=r"^expected KEY=VALUE, got foo$"):
        settings_of(["deadline_ms=5", "foo"])


def test_another_release_is_another_application(ensemble: Path) -> None:
    """Serve starts new processes where arguments differ: an alias is then looked up again."""
    first, second = (built(ensemble, release=text)["Ingress"].init_args[1] for text in ("1", "2"))
    assert first != second


def test_an_argument_that_does_not_exist_is_refused(ensemble: Path) -> None:
    with pytest.raises(ValueError, match=r"max_ongoing_request\n.*Extra inputs"):
        built(ensemble, max_ongoing_request="8")


@pytest.mark.parametrize(("nodes", "shared", "allowed"), [(1, False, True), (2, False, False), (2, True, True)])
def test_events_on_one_nodes_disk_are_refused_where_there_are_more(
    nodes: int, shared: bool, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}] * nodes + [{"Alive": False}])
    if allowed:
        require_shared_events("sqlite:////tmp/events.db", shared)
    else:
        with pytest.raises(ConfigError, match=r"expected redis://.* on a cluster of 2 nodes; sqlite keeps them on one"):
            require_shared_events("sqlite:////tmp/events.db", shared)
