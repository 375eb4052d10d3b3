"""Steps of the CRM's warm-up on large embedding tables: `train.sparse_tables` beside a step over whole tables.

python benchmarks/crm_tables.py [--rows N...] [--batch N] [--steps N] [--rounds N]

Ids are drawn at random, the popular ones more often (Zipf, 1.1); the model is a DCNv2 with our defaults for the shape. The bare loop is
torch's own: nn.Embedding(sparse=True) under SparseAdam, the rest under Adam. Both cores, one process.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np
import torch
from outcome import Outcome, alternate, show
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from components.crm import CrmConfig, build
from components.crm.fold_in import FoldIn
from components.joint.engine import ParameterGroup, TorchEngine
from components.joint.model import JointBatch, JointModel, LossWeights
from components.memory import keep_freed_memory
from components.types import CrmBatch, CrmInputs, Slot

FIELDS, RATE = 7, 1e-3
WHOLE, BARE = "a step over the whole table", "bare torch loop, sparse"


def drawn(rows: int, batch: int, count: int) -> list[tuple[Tensor, Tensor]]:
    """Return batches of ids, from 1 on, and labels."""
    random = np.random.default_rng(0)
    ids = [1 + (random.zipf(1.1, (batch, FIELDS)) * 7919 + np.arange(FIELDS)) % (rows - 1) for _ in range(count)]
    return [(torch.from_numpy(each), torch.from_numpy(random.integers(0, 2, batch).astype(np.float32))) for each in ids]


def tandem(rows: int, batches: list[tuple[Tensor, Tensor]], sparse: bool) -> Callable[[], float]:
    """Return what measures samples/s of our engine."""
    slots = tuple(Slot(f"field{number}", number, 1, 1) for number in range(FIELDS))
    config = CrmConfig(history="none", fold_in=FoldIn.Config(size=0), dropout=0.0, unknown_rate=0.0, user_unknown_rate=0.0)
    crm = build(config, CrmInputs(embedding_rows=rows, slots=slots, numeric_names=(), history_length=0, item_slot=0))
    model = JointModel(crm, None, None, LossWeights(crm=1.0))
    engine = TorchEngine(model, [ParameterGroup(list(crm.parameters()), RATE)], "cpu", 1.0, sparse)
    whole = [JointBatch(label, _crm_batch(ids)) for ids, label in batches]
    return lambda: _rate(lambda number: engine.step([whole[number]], 1.0), len(batches), len(batches[0][1]))


def bare(rows: int, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], float]:
    """Return what measures samples/s of torch's own sparse embedding and optimizer."""
    shape = CrmConfig()
    width = FIELDS * shape.embedding_size
    table = nn.Embedding(rows, shape.embedding_size, sparse=True)
    cross = nn.ModuleList(nn.Linear(width, width) for _ in range(shape.dcnv2.cross_layers))
    wide, narrow = shape.dcnv2.hidden_sizes
    tower = nn.Sequential(nn.Linear(width, wide), nn.ReLU(), nn.Linear(wide, narrow), nn.ReLU())
    head = nn.Linear(width + narrow, 1)
    dense = torch.optim.Adam([*cross.parameters(), *tower.parameters(), *head.parameters()], lr=RATE)
    sparse = torch.optim.SparseAdam(list(table.parameters()), lr=RATE)

    def step(number: int) -> None:
        ids, label = batches[number]
        first = x = table(ids).flatten(1)
        for layer in cross:
            x = first * layer(x) + x
        logits = head(torch.cat([x, tower(first)], dim=1)).squeeze(1)
        for optimizer in (dense, sparse):
            optimizer.zero_grad()
        binary_cross_entropy_with_logits(logits, label).backward()
        for optimizer in (dense, sparse):
            optimizer.step()

    return lambda: _rate(step, len(batches), len(batches[0][1]))


def _crm_batch(ids_BS: Tensor) -> CrmBatch:
    none_B0 = torch.zeros(len(ids_BS), 0)
    return CrmBatch(slot_ids_BS=ids_BS, numeric_BN=none_B0, history_ids_BL=none_B0.long(), history_rating_BL=none_B0)


def _rate(step: Callable[[int], object], steps: int, batch: int) -> float:
    step(0)
    started_s = time.perf_counter()
    for number in range(steps):
        step(number)
    return steps * batch / (time.perf_counter() - started_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 5_000_000])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(os.cpu_count() or 1)
    outcomes: list[Outcome] = []
    for rows in options.rows:
        batches = drawn(rows, options.batch, options.steps)
        works = {"ours": tandem(rows, batches, True), WHOLE: tandem(rows, batches, False), BARE: bare(rows, batches)}
        found = alternate(works, options.rounds)
        outcomes.append(Outcome(f"Training DCNv2 on a table of {rows:,} rows", "samples/s", found.pop("ours"), found, {}))
    show(outcomes)


if __name__ == "__main__":
    main()
