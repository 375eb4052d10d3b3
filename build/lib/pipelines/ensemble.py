"""Ensemble: models, users, items, histories, policy and prompt settings in one folder, which serving and MLflow load."""

from __future__ import annotations

import fsspec

from components import artifacts
from components.features.latest import latest_histories, save_histories
from components.features.tables import STORE_FILES, read_scores
from components.routing.curve import threshold_curve
from components.routing.policy import Policy
from pipelines import prompts
from pipelines.stage import StageContext


def run(context: StageContext, asked: prompts.Config) -> None:
    """Write the artifact `ensemble/`."""
    fs, target = fsspec.core.url_to_fs(context.folder)
    _, output = fsspec.core.url_to_fs(context.output)
    for part in ("checkpoints/crm", "checkpoints/llm", *(f"tables/{name}" for name in STORE_FILES), "policy/policy.json"):
        fs.copy(artifacts.join(output, part), artifacts.join(target, part.split("/", 1)[1]), recursive=True)
    artifacts.write_json(
        artifacts.join(context.folder, "prompts.json"), {"history_length": asked.history_length, "max_tokens": asked.max_tokens}
    )
    history_length = artifacts.read_json(artifacts.join(context.folder, "features.json"))["history_length"]
    save_histories(latest_histories(context.artifact("tables"), history_length), context.folder)
    policy = Policy.from_json(artifacts.read_json(artifacts.join(context.folder, "policy.json")))
    # On test, for people: the policy itself was chosen on validation.
    curve = threshold_curve(policy, read_scores(context.artifact("scores"), "test"))
    artifacts.write_json(artifacts.join(context.folder, "curve.json"), curve)
