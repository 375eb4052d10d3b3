"""The whole pipeline: raw interactions -> tuned, evaluated, browsable CRM+LLM ensemble. The only chain of stages.

python pipelines/full.py RECIPE [--data URI] [--output URI] [any key of the configuration]
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.exceptions import RayError

from components import artifacts, storage
from components.datasets.movielens import MovieLens1m
from components.disk import named_when_full
from components.errors import ArtifactError, ConfigError, TandemError, causes, one_line
from components.llm.config import TINY
from components.types import Schema, Tables
from pipelines import VERSION, cluster, code, command_line, evaluate, policy, prepare, prompts, score, train
from pipelines import backbone as tiny_backbone
from pipelines import ensemble as gathering
from pipelines.config import READERS, RunConfig
from pipelines.interruption import Interruption
from pipelines.lock import owned
from pipelines.progress import Progress, quiet
from pipelines.raw import digest, folder_digest
from pipelines.recording import Recording
from pipelines.stage import StageContext, clear_scratch

CODE = "code"  # in an artifact's facts: the digest of the code that made it
FINISHED = "every stage was finished by an earlier run of the same configuration and data"
NO_DATA = Tables(Schema(0.0, 1.0, 0.5), interactions=())  # what a plan is made for where there is none yet


@dataclass(frozen=True)
class Step:
    """A stage in the chain: its artifact's name, what that depends on, and the call that writes it."""

    name: str
    depends: tuple[Any, ...]
    inputs: tuple[str, ...]
    run: Callable[[StageContext], None]


def chain(config: RunConfig, output: str, tables: Tables) -> list[Step]:
    """Return the stages of a run in order."""
    tiny = config.llm.path == TINY
    llm = replace(config.llm, path=artifacts.join(output, "backbone")) if tiny else config.llm
    start = ("tables", "backbone") if tiny else ("tables",)
    asked, shown = config.prompts, config.prompts.history_length
    weights = folder_digest(config.llm.path)
    job = train.Job(
        config.train, config.crm, llm, artifacts.join(output, "tables"), artifacts.join(output, "prompts"), asked.max_tokens, config.seed
    )
    steps = [
        Step("tables", (config.dataset, config.prepare, digest(tables)), (), lambda at: _prepare(at, tables, config)),
        Step("backbone", (config.tiny, shown), ("tables",), lambda at: tiny_backbone.run(at, config.tiny, shown)),
        Step(
            "prompts",
            (asked, config.llm.path, config.llm.revision, weights, config.seed),
            start,
            lambda at: prompts.run(at, asked, llm, config.seed),
        ),
        Step(
            "checkpoints",
            (config.train, config.crm, config.llm, weights, config.seed),
            ("prompts",),
            lambda at: train.run(at, job, config.cluster.autoscales),
        ),
        Step("scores", (config.score,), ("checkpoints",), lambda at: score.run(at, config.score, config.llm)),
        Step("policy", (config.tune,), ("scores",), lambda at: policy.run(at, config.tune)),
        Step("ensemble", (), ("checkpoints", "policy"), lambda at: gathering.run(at, asked)),
        Step(
            "report",
            (config.evaluate, config.recipe),
            ("policy",),
            lambda at: evaluate.run(at, config.evaluate, config.recipe, timings(at), config),
        ),
    ]
    return steps if tiny else [step for step in steps if step.name != "backbone"]


def _prepare(context: StageContext, tables: Tables, config: RunConfig) -> None:
    prepare.run(context, tables, config.prepare)
    if advice := command_line.advice(config.crm, context.facts["rows"]["train"]):
        context.progress.say(advice)


def fingerprints(steps: Sequence[Step]) -> dict[str, str]:
    """Return what each stage's artifact must carry to be used again: a hash of all that it depends on, inputs included."""
    found: dict[str, str] = {}
    for step in steps:
        found[step.name] = artifacts.fingerprint(VERSION, step.name, *step.depends, *(found[name] for name in step.inputs))
    return found


def run(config: RunConfig, interruption: Interruption) -> None:
    """Run every stage whose artifact is not there yet, and show what came out."""
    output = config.output or ""
    if config.dry_run:
        _plan(config, output)
        return
    tables = READERS[type(config.dataset)](config.dataset).read(config.data or "")
    steps = chain(config, output, tables)
    wanted = fingerprints(steps)
    with owned(output, config.wait) as require_owned:
        left = [step for step in steps if not (_is_done(output, step, wanted) or _was_finished(output, step, wanted, require_owned))]
        clear_scratch(output, [wanted[step.name] for step in steps if step not in left])  # of runs killed before they cleared it
        _name_edited(output, [step for step in steps if step not in left])
        recording = Recording(config, output, wanted["report"], tables.schema.synthetic)
        if left:
            if done := [step.name for step in steps if step not in left]:
                print(f"finished by an earlier run: {', '.join(done)}", file=sys.stderr)
            _connect(config, left)
        else:
            print(f"Nothing to do{'' if recording.is_complete() else ' but to send what MLflow lacks'}: {FINISHED}.")
        if left or not recording.is_complete():
            with recording:
                progress = Progress(len(left))
                _run_steps(left, output, wanted, progress, recording, interruption, require_owned)
                recording.finish()
                progress.end()
    command_line.show_result(config, output)


def _plan(config: RunConfig, output: str) -> None:
    """Show what a run would do; it needs no data for that, and fetches none."""
    reader, tables = READERS[type(config.dataset)](config.dataset), NO_DATA
    if not command_line.has_data(config):
        print("data: none given (--data), so nothing can be reused")
    elif isinstance(reader, MovieLens1m) and reader.would_fetch(config.data or ""):
        print(f"data: none in {config.data} yet, a run downloads it (--dataset.download), so nothing can be reused")
    else:
        tables = reader.read(config.data or "")
    steps = chain(config, output, tables)
    wanted = fingerprints(steps)
    left = [step for step in steps if not _is_done(output, step, wanted)]
    _name_edited(output, [step for step in steps if step not in left])
    cluster.connect(config.cluster)
    _require_devices(config, left)
    command_line.show_plan(config, output, [(step.name, step not in left) for step in steps])


def _connect(config: RunConfig, left: Sequence[Step]) -> None:
    """Join the cluster; raises ResourceError or ConfigError where it can't do what is left."""
    cluster.connect(config.cluster)
    if not config.cluster.autoscales:
        asked = command_line.needs(config)
        cluster.require({step.name: asked[step.name] for step in left if step.name in asked})
    _require_devices(config, left)
    cluster.require_shared(command_line.local_folders(config))


def _require_devices(config: RunConfig, left: Sequence[Step]) -> None:
    """Raise ConfigError for what training can't do on the devices it would get, before hours of stages lead there."""
    if any(step.name == "checkpoints" for step in left) and not config.cluster.autoscales:
        train.require_device(config.train, train.wants_gpu(config.train))


def timings(context: StageContext) -> dict[str, dict[str, Any]]:
    """Return the seconds and the rate of every stage that left an artifact before this one."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("tables", "backbone", "prompts", "checkpoints", "scores", "policy", "ensemble"):
        manifest = artifacts.read_manifest(context.artifact(name))
        if manifest is not None:
            count, unit = manifest.facts.get("work", (1, "artifacts"))
            found[name] = {"seconds": manifest.seconds, "rate": count / max(manifest.seconds, 1e-9), "unit": f"{unit}/s"}
    return found


def _run_steps(
    steps: Sequence[Step],
    output: str,
    wanted: dict[str, str],
    progress: Progress,
    recording: Recording,
    interruption: Interruption,
    require_owned: Callable[[], None],
) -> None:
    for step in steps:
        interruption.check()
        progress.start(step.name)
        # The artifact comes last: a run that is killed between the two makes it again, and records all of it. And last of all
        # the lock is looked at: hashing may take minutes, and another run may be writing the artifact by now.
        with (
            artifacts.create(artifacts.join(output, step.name), wanted[step.name], step.depends, require_owned) as (folder, facts),
            recording.stage(step.name, step.depends, folder) as on_metrics,
        ):
            facts[CODE] = code.digest()
            context = StageContext(output, folder, wanted[step.name], progress, on_metrics, facts)
            try:
                step.run(context)
            except ConfigError as error:  # a key that only the data or the model could show to be wrong
                raise TandemError(str(_reason(error))) from error
        context.clear_scratch()
        progress.say("done")


def _is_done(output: str, step: Step, wanted: dict[str, str]) -> bool:
    """Tell whether a stage's artifact is there and as it was written; one that is damaged is named, and counts as none.

    All of it is read: that takes a small part of the time that it takes to make it.
    """
    uri = artifacts.join(output, step.name)
    if not storage.exists(uri):
        return False
    try:
        if artifacts.require(uri).fingerprint != wanted[step.name]:
            return False
        artifacts.verify(uri)
    except ArtifactError as error:
        print(f"{step.name} is made anew: {error}", file=sys.stderr)
        return False
    return True


def _was_finished(output: str, step: Step, wanted: dict[str, str], require_owned: Callable[[], None]) -> bool:
    """Tell whether a run was broken off when all of a stage's artifact was written, which is then put in its place."""
    found = artifacts.publish_finished(artifacts.join(output, step.name), wanted[step.name], require_owned)
    if found:
        print(f"{step.name} is used as a run wrote it that was broken off before it appeared", file=sys.stderr)
    return found


def _name_edited(output: str, done: Sequence[Step]) -> None:
    """Say which artifacts other code made than this: their fingerprints know its version alone."""
    made = {step.name: artifacts.read_manifest(artifacts.join(output, step.name)) for step in done}
    edited = [name for name, manifest in made.items() if manifest and manifest.facts.get(CODE) != code.digest()]
    if edited:
        print(f"{', '.join(edited)}: made by code that was edited since; another --output makes them anew", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 done, 1 failed, 2 bad command line or configuration, 75 output in use, 130 interrupted.
    """
    interruption = Interruption()
    quiet()
    try:
        config = command_line.parse(arguments)
        with named_when_full(config.output or "", os.environ.get("RAY_TMPDIR", tempfile.gettempdir())):
            run(config, interruption)
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where this run stopped, training from its last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:  # one readable line first, then where it happened unless that is no mistake of this code
        reason = _reason(error)
        said = reason or f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        print(one_line(f"error: {said}"), file=sys.stderr)
        if not isinstance(error, TandemError):
            traceback.print_exc()
        return reason.exit_code if reason is not None and reason is error else 1
    return 0


def _reason(error: Exception) -> TandemError | None:
    """Return the first TandemError among what an error comes of: Ray wraps those of its workers, with their traceback as the text."""
    return next((one for one in causes(error) if isinstance(one, TandemError) and not isinstance(one, RayError)), None)


if __name__ == "__main__":
    sys.exit(main())
