"""Worlds of one or two worker processes with a gloo process group, as Ray Train would make them, but without Ray."""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

TIMEOUT_S = 180  # of a world, on a machine that has much else to do
# The server imports these once; workers are forked from it in no time.
PRELOAD = ["tests.components.joint.worlds", "deepspeed", "components.joint.workbench", "transformers.models.llama.modeling_llama"]


def run(workers: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `work(rank, workers, *arguments)`, a function of a module, in every worker; return what each returned."""
    results = attempt(workers, work, *arguments)
    assert results is not None, "a worker was killed"
    return results


def attempt(workers: int, work: Callable[..., Any], *arguments: Any) -> list[Any] | None:
    """The same, or None where a worker was killed: the others, which would wait for it, are killed then, as Ray Train does."""
    os.environ.update(OMP_NUM_THREADS="1", DS_ACCELERATOR="cpu", GLOO_SOCKET_IFNAME="lo")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as folder:
        processes = [context.Process(target=_work, args=(rank, workers, folder, work, arguments)) for rank in range(workers)]
        for process in processes:
            process.start()
        stop_s = time.monotonic() + TIMEOUT_S
        running, killed = {process.sentinel: process for process in processes}, False
        while running and not killed and time.monotonic() < stop_s:
            ended = [running.pop(sentinel) for sentinel in wait(list(running), max(0.0, stop_s - time.monotonic()))]  # pyright: ignore[reportArgumentType]
            killed = any(process.exitcode == -signal.SIGKILL for process in ended)
        for process in running.values():
            process.kill()
            process.join()
        if killed:
            return None
        results = [path.read_bytes() for rank in range(workers) if (path := Path(folder) / f"result-{rank}").exists()]
    errors = [error for found in map(pickle.loads, results) if (error := found["error"])]
    assert not errors, "\n".join(errors)
    assert not running, f"{len(running)} of {workers} workers hung"
    assert len(results) == workers, f"exit codes {[process.exitcode for process in processes]}"
    return [pickle.loads(result)["value"] for result in results]


def _work(rank: int, workers: int, folder: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    gc.freeze()  # what the server imported is never garbage: DeepSpeed collects often
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers), LOCAL_WORLD_SIZE=str(workers))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers)
    try:
        result = {"value": work(rank, workers, *arguments), "error": ""}
    except BaseException:
        result = {"value": None, "error": f"worker {rank}: {traceback.format_exc()}"}
    Path(folder, f"result-{rank}").write_bytes(pickle.dumps(result))
    os._exit(0)  # a peer that failed must not be waited for
