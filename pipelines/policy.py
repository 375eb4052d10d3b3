"""Policy: the validation part of the score table -> where the LLM is asked (Ray Tune)."""

from __future__ import annotations

import dataclasses
import tempfile

from components import artifacts
from components.features.tables import read_scores, write_frame
from pipelines.stage import StageContext
from tune import search
from tune.trials import EndedTrial

SHARES = (0.1, 0.2, 0.3, 0.5, 1.0)  # LLM shares at which the report compares routers, whatever the policy


def run(context: StageContext, config: search.Config) -> None:
    """Write the artifact `policy/`: `policy.json`, what the search found, and validation's best policies at SHARES."""
    valid = read_scores(context.artifact("scores"), "valid")

    def show(trial: EndedTrial) -> None:
        context.progress.update(trial.done, trial.total, f"policies tried ({trial.text})")
        if trial.auc is not None and trial.share is not None:
            context.on_metrics({"auc": trial.auc, "llm_share": trial.share}, trial.done)

    with tempfile.TemporaryDirectory() as folder:  # Tune's own files, which nothing reads later
        found = search.search(valid, config, folder, show)
    at_shares = search.at_shares(valid, found.candidates, SHARES, config)
    for failure in found.failures:
        context.progress.say(f"a trial failed and is left out: {failure}")
    context.progress.say(found.sentence)
    named = {str(share): policy.to_json() for share, policy in at_shares.items()}
    gain = {"sentence": found.sentence, "gain": dataclasses.asdict(found.gain), "failures": list(found.failures)}
    for name, value in (("policy", found.policy.to_json()), ("at_shares", named), ("search", gain)):
        artifacts.write_json(artifacts.join(context.folder, f"{name}.json"), value)
    for name, table in (("trials", found.trials), ("pareto", found.pareto)):
        write_frame(table, artifacts.join(context.folder, f"{name}.parquet"))
    context.facts.update(gain, work=(len(found.trials), "policies"))
