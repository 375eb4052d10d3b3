"""Who trains in `llm_training.py`: each is a generator that takes a number of steps and gives back what it did."""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from components.crm import CrmConfig
from components.joint import alignment, deepspeed_engine
from components.joint.data import Inputs, Window, token_arrays
from components.joint.plan import Stage, StageConfig
from components.joint.workbench import Parts, Workbench
from components.llm import backbone


@dataclass(frozen=True)
class Done:
    """What a process did in its turn."""

    tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0


Turns = Generator[Done, int, None]
Work = Callable[["Case", int, int], Turns]
TRAINER_WARMS_UP = 1  # steps, in each of its turns: it starts anew each time


@dataclass(frozen=True)
class Case:
    """What is trained, the same for everyone."""

    folder: Path
    precision: str
    stage: StageConfig
    workers: int
    """Of the recipe: their micro-batches together are a step."""
    max_tokens: int
    device: str = "cpu"
    zero_stage: int = 2

    @property
    def rows(self) -> int:
        """Prompts of an optimizer step."""
        return self.stage.micro_batch * self.workers

    @cached_property
    def samples(self) -> pa.Table:
        return pq.read_table(self.folder / "prompts")

    @property
    def llm(self) -> str:
        return str(self.folder / "llm")

    def clock(self) -> NDArray[np.float64]:
        """Return the time and the CPU time of this process, in seconds, when the device has done what it was told so far."""
        if self.device != "cpu":
            torch.cuda.synchronize()
        return np.array([time.perf_counter(), time.process_time()])

    def batches(self) -> Iterator[NDArray[np.int64]]:
        """Yield the rows of each step, without end."""
        whole = self.samples.num_rows // self.rows
        return itertools.cycle(np.arange(whole * self.rows).reshape(whole, self.rows))


def answer(connection: Connection, work: Work, case: Case, rank: int, workers: int, threads: int) -> None:
    """Train as many steps as the connection says, again and again, until it says 0 (runs in a process of its own)."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as aside:
        os.chdir(aside)
        turns = work(case, rank, workers)
        next(turns)
        while steps := connection.recv():
            connection.send(turns.send(steps))


def ours(case: Case, rank: int, workers: int) -> Turns:
    """Train as the pipeline's workers do; fewer workers than the recipe's accumulate to the same step."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers), GLOO_SOCKET_IFNAME="lo")
    store = f"file://{case.folder}/store-{workers}-{case.precision}-{case.zero_stage}"
    backend = "gloo" if case.device == "cpu" else "nccl"
    torch.distributed.init_process_group(backend, init_method=store, rank=rank, world_size=workers)
    zero = deepspeed_engine.Config(precision=case.precision, zero_stage=case.zero_stage)  # pyright: ignore[reportArgumentType]
    tables, prompts = str(case.folder / "tables"), str(case.folder / "prompts")
    llm = backbone.Config(path=case.llm)
    bench = Workbench(Parts(CrmConfig(), llm, zero, alignment.Config(), tables, prompts, case.max_tokens, 0), case.device)
    stage = replace(case.stage, accumulation=case.workers // workers)
    engine = bench.engine(Stage("llm", stage, prompts), {"llm": bench.build("llm")})
    window = Window(case.samples, Inputs(bench.store, bench.layout, crm=False, llm=True))
    lengths, batches = _lengths(case), case.batches()
    done = Done()
    while True:
        steps = yield done
        torch.distributed.barrier()
        tokens, started_s = 0, case.clock()
        for _, every in zip(range(steps), batches, strict=False):
            rows = every[rank::workers]
            engine.step(window.micro_batches(rows, stage.micro_batch), 1.0)
            tokens += int(lengths[rows].sum())
        done = Done(tokens, *(case.clock() - started_s))


def plain(case: Case, *_: int) -> Turns:
    """Train with torch alone, as well as a page of code does: padded, bf16 by autocast, the head at the answer only."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(case.llm, local_files_only=True, dtype=torch.float32).to(case.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=case.stage.llm_learning_rate, weight_decay=case.stage.weight_decay)
    prompts, answers, batches = token_arrays(case.samples), _answers(case), case.batches()
    done = Done()
    while True:
        steps = yield done
        tokens, started_s = 0, case.clock()
        for _, rows in zip(range(steps), batches, strict=False):
            for part in np.split(rows, case.workers):
                ids = [torch.from_numpy(prompts[row]) for row in part]
                last = torch.tensor([len(each) - 1 for each in ids], device=case.device)
                padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True).to(case.device)
                with torch.autocast(case.device, torch.bfloat16, enabled=case.precision == "bf16"):
                    hidden = model.model(padded, use_cache=False).last_hidden_state[torch.arange(len(ids), device=case.device), last]
                    logits = model.lm_head(hidden)
                loss = torch.nn.functional.cross_entropy(logits.float(), torch.from_numpy(answers[part]).to(case.device))
                (loss / case.workers).backward()
                tokens += sum(map(len, ids))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        done = Done(tokens, *(case.clock() - started_s))


def trainer(case: Case, *_: int) -> Turns:
    """Train with transformers.Trainer as its users do: a padding collator, the vocabulary's loss, all labels but one masked."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments
    from transformers.trainer_callback import PrinterCallback

    model = AutoModelForCausalLM.from_pretrained(case.llm, local_files_only=True, dtype=torch.float32)
    collator = DataCollatorForSeq2Seq(AutoTokenizer.from_pretrained(case.llm, local_files_only=True))
    prompts, answers, lengths = token_arrays(case.samples), _answers(case), _lengths(case)
    batches = case.batches()
    clock: dict[int, NDArray[np.float64]] = {}

    class Clock(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:  # noqa: ARG002
            clock[state.global_step] = case.clock()

    done = Done()
    while True:
        steps = yield done
        taken = [rows for _, rows in zip(range(TRAINER_WARMS_UP + steps), batches, strict=False)]
        examples = [
            {"input_ids": [*prompts[row].tolist(), int(answers[row])], "labels": [-100] * len(prompts[row]) + [int(answers[row])]}
            for row in np.concatenate(taken)
        ]
        arguments = TrainingArguments(
            "trainer",
            per_device_train_batch_size=case.stage.micro_batch,
            gradient_accumulation_steps=case.workers,
            max_steps=TRAINER_WARMS_UP + steps,
            learning_rate=case.stage.llm_learning_rate,
            weight_decay=case.stage.weight_decay,
            train_sampling_strategy="sequential",  # the rows are shuffled, and the same as everyone's
            bf16=case.precision == "bf16",
            use_cpu=case.device == "cpu",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        running = Trainer(model, arguments, collator, examples, callbacks=[Clock()])  # pyright: ignore[reportArgumentType]
        running.remove_callback(PrinterCallback)
        running.train()
        seconds = clock[TRAINER_WARMS_UP + steps] - clock[TRAINER_WARMS_UP]
        done = Done(int(lengths[np.concatenate(taken[TRAINER_WARMS_UP:])].sum()), *seconds)


def _lengths(case: Case) -> NDArray[np.int64]:
    return np.array([len(each) for each in token_arrays(case.samples)])


def _answers(case: Case) -> NDArray[np.int64]:
    """Return the token that each prompt should be answered with."""
    layout = backbone.load_encoder(backbone.Config(path=case.llm), case.max_tokens).layout
    return np.array(layout.answer_ids)[case.samples["label"].to_numpy().astype(np.int64)]
