"""What one worker does inside Ray Train: it builds the models and goes through the stages, with checkpoints through Ray Train."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint

from components.features.reader import Share
from components.joint.checkpoint import Leftover, remove_orphans, require_whole, seal
from components.joint.crm_files import save_crm
from components.joint.training import Surroundings
from components.joint.workbench import Parts, Workbench
from components.llm import backbone
from components.llm.answer import ClickLlm
from components.memory import keep_freed_memory
from pipelines.train import OWN_SECONDS, Job


def train(job: Job, board: Any, run_uri: str, start: Checkpoint | None) -> None:
    """Train all stages of a job, from the newest checkpoint on, and leave the trained models in the last one.

    `start` is the checkpoint that a broken run left in the folder of this one, `run_uri`.
    """
    keep_freed_memory()
    torch.set_num_threads(job.train.cpus_per_worker)
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    known = ray.train.get_checkpoint()
    latest = known or start
    leftover = Leftover(run_uri, Path(start.path).name if start else None, written=1 if known else 0)

    def checkpoint(write: Callable[[Path], None]) -> None:
        _checkpoint(write, share.rank)
        if share.rank == 0:
            leftover.after_checkpoint()

    around = Surroundings(
        share=share,
        report=lambda line: board.pin.remote(line) if share.rank == 0 else None,
        checkpoint=checkpoint,
        checkpoint_every_s=job.train.checkpoint_every_s,
    )
    started_s = time.monotonic()
    training = Workbench(parts_of(job), "cuda" if job.gpu else "cpu").training(job.stages, around)
    if share.rank == 0:
        remove_orphans(run_uri, Path(latest.path).name if latest else None)
    if latest:
        with latest.as_directory() as folder:
            require_whole(Path(folder), share.workers)
            training.resume(Path(folder))
            training.run()
    else:
        training.run()
    own_seconds = time.monotonic() - started_s

    def export(folder: Path) -> None:
        training.write_state(folder)
        if share.rank == 0:
            (folder / OWN_SECONDS).write_text(json.dumps(own_seconds))
            save_crm(training.model("crm"), job.crm, folder / "models" / "crm")
            llm = training.model("llm")
            assert isinstance(llm, ClickLlm)
            backbone.save(llm, backbone.load_tokenizer(job.llm), str(folder / "models" / "llm"))

    checkpoint(export)


def _checkpoint(write: Callable[[Path], None], rank: int) -> None:
    """Write a checkpoint and hand it to Ray Train; every worker writes its part."""
    with tempfile.TemporaryDirectory(prefix="checkpoint-", dir=Path.cwd()) as folder:  # Ray's own folder, which goes with Ray
        write(Path(folder))
        seal(Path(folder), rank)
        ray.train.report({}, checkpoint=Checkpoint.from_directory(folder))


def parts_of(job: Job) -> Parts:
    """Return everything but the stages."""
    config = job.train
    return Parts(
        job.crm, job.llm, config.deepspeed, config.alignment, job.tables, job.prompts, job.max_tokens, job.seed, config.sparse_tables
    )
