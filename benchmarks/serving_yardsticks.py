"""What the endpoint is measured against: each yardstick is a process of its own, started by benchmarks/serving_load.py.

python benchmarks/serving_yardsticks.py NAME ENSEMBLE PORT TEMP
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

HOST = "127.0.0.1"
MAX_BATCH_TOKENS = 4_096  # as the endpoint's default
LARGE_PATH, LARGE_BYTES = "/v1/large", 15_000  # about what the endpoint answers to 100 candidates
EMPTY_PREFIX, MODELS_PREFIX = "/empty", "/models"  # of the Serve applications without anything, and with the models and nothing else
Pasts = dict[str, tuple[tuple[tuple[str, float], ...], int]]


def pasts(ensemble: str, users: pd.DataFrame, items: pd.DataFrame) -> Pasts:
    """Return what every user did: item ids and ratings, oldest first, and the count of all interactions."""
    from components.features.latest import load_histories

    histories, item_ids, found = load_histories(ensemble), items["item_id"].to_numpy(object), {}
    for row, user in enumerate(users["user_id"]):
        past = histories.of(row)
        if past is None:
            found[user] = ((), 0)
        else:
            found[user] = tuple(zip(item_ids[past.item_rows].tolist(), past.ratings.tolist(), strict=True)), past.earlier_count
    return found


def arms(ensemble: str) -> None:
    """Call the models in this process, without HTTP: read a question a line from stdin, write an answer a line to stdout."""
    import torch

    from components.features.visit import Candidate, Visit
    from components.joint.arms import CrmArm, LlmArm

    torch.set_num_threads(1)
    crm, llm = CrmArm.load(ensemble), LlmArm.load(ensemble, MAX_BATCH_TOKENS)
    known = pasts(ensemble, crm.store.users, crm.store.items)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        visits: list[Visit] = []
        for user, items in question["asks"]:
            latest, count = known[user]
            visits.append(Visit(user, {}, latest, count, tuple(Candidate(item) for item in items)))
        took_s, asked, until_s = [], 0, time.monotonic() + question["seconds"]
        while asked < question["requests"] and time.monotonic() < until_s:
            visit, started_s = visits[asked % len(visits)], time.monotonic()
            crm.score(crm.resolver.resolve(visit))
            if question["llm"]:
                llm.score([visit])
            took_s.append(time.monotonic() - started_s)
            asked += 1
        print(json.dumps(took_s), flush=True)


def plain(ensemble: str, port: int) -> None:
    """Answer with the models from FastAPI on uvicorn."""
    _uvicorn(models_app(ensemble), port)


def models_app(ensemble: str) -> Any:
    """Return a FastAPI application with the models: a validated body in, a probability an item out, and nothing else.

    The LLM scores the first candidates, as many as the question's share allows: nothing here chooses.
    """
    import torch
    from fastapi import FastAPI

    from components.features.visit import Candidate, Visit
    from components.joint.arms import CrmArm, LlmArm
    from serving.schemas import ScoreRequest

    torch.set_num_threads(1)
    arm, llm = CrmArm.load(ensemble), LlmArm.load(ensemble, MAX_BATCH_TOKENS)
    known, app = pasts(ensemble, arm.store.users, arm.store.items), FastAPI()

    async def score(request: ScoreRequest) -> dict[str, Any]:
        user = request.user.id or ""
        latest, count = known[user]
        visit = Visit(user, {}, latest, count, tuple(Candidate(item.id) for item in request.candidates))
        scores = arm.score(arm.resolver.resolve(visit))["p_crm"].tolist()
        asked = int((request.max_llm_share or 0.0) * len(scores))
        if asked:
            scores[:asked] = llm.score([replace(visit, candidates=visit.candidates[:asked])])[0].tolist()
        arms = ["llm"] * asked + ["crm"] * (len(scores) - asked)
        scored = zip(request.candidates, scores, arms, strict=True)
        return {"results": [{"id": item.id, "score": p, "arm": name} for item, p, name in scored]}

    score.__annotations__["request"] = ScoreRequest  # known in this function alone
    app.post("/v1/score")(score)
    return app


def unserved(ensemble: str, port: int, temp: Path) -> None:
    """Run the endpoint's own application on uvicorn: what is left without Ray Serve. It has no LLM to ask."""
    from typing import cast

    import torch
    from ray.serve.handle import DeploymentHandle

    from serving.access import Access
    from serving.arguments import Arguments
    from serving.endpoints import build_http
    from serving.model import resolve
    from serving.service import Service

    torch.set_num_threads(1)
    arguments = Arguments.model_validate({"model": ensemble, "events": f"sqlite:///{temp}/events.db"})
    service = Service(resolve(ensemble), arguments, cast(DeploymentHandle, None), None)
    _uvicorn(build_http(service, arguments, Access(None, False)), port)


def neighbours(ensemble: str, port: int, temp: Path) -> None:
    """Serve three applications side by side: the endpoint, one without anything, and one with the models and nothing else.

    In one Ray, so that all of them have the same processes beside them. The empty application reads the JSON body and returns a constant,
    small or large.
    """
    from serving.local import FLAGS

    os.environ.update({**FLAGS, **os.environ})
    import logging

    import ray
    from fastapi import FastAPI, Request, Response
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from serving.app import build
    from serving.arguments import Arguments

    app = FastAPI()

    async def constant(request: Request) -> dict[str, str]:
        await request.json()
        return {"status": "ok"}

    async def large(request: Request) -> Response:
        await request.json()
        return Response(answer, media_type="application/json")

    answer = json.dumps("x" * (LARGE_BYTES - 2)).encode()
    constant.__annotations__["request"] = large.__annotations__["request"] = Request
    large.__annotations__["return"] = Response
    app.post("/v1/score")(constant)
    app.post(LARGE_PATH)(large)

    deployment = serve.deployment(
        max_ongoing_requests=128, ray_actor_options={"num_cpus": 0.25}, logging_config=LoggingConfig(enable_access_log=False)
    )

    @deployment
    @serve.ingress(app)
    class Empty:
        """Nothing behind HTTP."""

    @deployment
    @serve.ingress()
    class Models:
        """The models behind HTTP."""

        def __serve_build_asgi_app__(self) -> FastAPI:
            return models_app(ensemble)

    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        serve.start(http_options={"host": HOST, "port": port})
        serve.run(Models.bind(), name="models", route_prefix=MODELS_PREFIX)
        serve.run(Empty.bind(), name="empty", route_prefix=EMPTY_PREFIX)
        endpoint = Arguments.model_validate({"model": ensemble, "events": f"sqlite:///{temp}/events.db"})
        serve.run(build(endpoint), name="endpoint", route_prefix="/")
        print(f"serving three applications on http://{HOST}:{port}", flush=True)
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        pass
    finally:
        serve.shutdown()
        ray.shutdown()


def mlflow(ensemble: str, port: int, temp: Path) -> None:
    """Run MLflow's scoring server on the ensemble, its policy changed to one that never asks the LLM (threshold inf)."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature
    from mlflow.pyfunc import scoring_server

    from components.joint.ensemble import Ensemble

    folder = temp / "crm-only"
    shutil.copytree(ensemble, folder)
    policy = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**policy, "threshold": "inf"}))
    loaded = Ensemble.load(str(folder))
    users = loaded.store.users["user_id"].tolist()
    frame = rows(pasts(ensemble, loaded.store.users, loaded.store.items), users[0], loaded.store.items["item_id"].tolist()[:5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = infer_signature(frame, loaded.predict(frame))
    mlflow.pyfunc.save_model(
        str(temp / "packed"), loader_module="serving.pyfunc", data_path=str(folder), signature=described, pip_requirements=[]
    )
    _uvicorn(scoring_server.init(mlflow.pyfunc.load_model(str(temp / "packed"))), port)


def mlflow_bare(ensemble: str, port: int, temp: Path) -> None:
    """Run MLflow's scoring server on the CRM alone, as little around it as can be: a user and all candidates in one row."""
    import mlflow.pyfunc
    from mlflow.models import infer_signature
    from mlflow.pyfunc import scoring_server

    signature = infer_signature(row("u", ["i", "j"]), np.zeros(2))
    packed = str(temp / "packed")
    mlflow.pyfunc.save_model(packed, loader_module="serving_pyfunc", data_path=ensemble, signature=signature, pip_requirements=[])
    _uvicorn(scoring_server.init(mlflow.pyfunc.load_model(packed)), port)


def row(user: str, items: list[str]) -> pd.DataFrame:
    """Return a request as `mlflow_bare` takes it."""
    return pd.DataFrame([{"user_id": user, "candidates": items}])


def rows(known: Pasts, user: str, items: list[str]) -> pd.DataFrame:
    """Return a request as the ensemble's MLflow model takes it: a row a candidate."""
    latest, count = known[user]
    history = {"history_items": [item for item, _ in latest], "history_ratings": [rating for _, rating in latest]}
    fixed = {"user_id": user, "timestamp_s": 1_700_000_000, **history, "earlier_count": count}
    return pd.DataFrame([{**fixed, "item_id": item} for item in items])


def _uvicorn(app: Any, port: int) -> None:
    import uvicorn

    uvicorn.run(app, host=HOST, port=port, log_level="warning", access_log=False)


def percentiles_ms(took_s: list[float]) -> dict[str, float]:
    """Return p50, p95 and p99 in ms; nan where nothing was answered."""
    found = np.percentile(took_s, [50, 95, 99]) if took_s else np.full(3, np.nan)
    return {name: 1000 * float(value) for name, value in zip(("p50_ms", "p95_ms", "p99_ms"), found, strict=True)}


def main() -> None:
    name, ensemble, port, temp = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    start: dict[str, Callable[[], None]] = {
        "arms": lambda: arms(ensemble),
        "plain": lambda: plain(ensemble, port),
        "unserved": lambda: unserved(ensemble, port, temp),
        "neighbours": lambda: neighbours(ensemble, port, temp),
        "mlflow": lambda: mlflow(ensemble, port, temp),
        "mlflow_bare": lambda: mlflow_bare(ensemble, port, temp),
    }
    start[name]()


if __name__ == "__main__":
    main()
