"""A bare loop of torch with its rows in memory, as one would write it for one model: the yardstick of the CRM's benchmarks."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits


class Dcnv2(nn.Module):
    def __init__(self, job, rows, fields):
        super().__init__()
        width = fields * job["embedding_size"]
        self.embedding = nn.Embedding(rows, job["embedding_size"])
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.cross = nn.ModuleList(nn.Linear(width, width) for _ in range(job["cross_layers"]))
        sizes = [width, *job["hidden_sizes"]]
        self.tower = nn.Sequential(*(layer for a, b in zip(sizes, sizes[1:]) for layer in (nn.Linear(a, b), nn.ReLU())))  # noqa: B905, RUF007
        self.head = nn.Linear(width + sizes[-1], 1)

    def forward(self, ids):
        first = x = self.embedding(ids).flatten(1)
        for layer in self.cross:
            x = first * layer(x) + x
        return self.head(torch.cat([x, self.tower(first)], dim=1)).squeeze(1)


def read(path, first):
    table = pq.read_table(path)
    ids = np.stack([table[name].to_numpy() for name in first], axis=1).astype(np.int64) + list(first.values())
    return torch.from_numpy(ids), torch.from_numpy(table["label"].to_numpy().copy())


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    torch.manual_seed(job["seed"])
    plain = Path(job["folder"]) / "plain"
    sizes = json.loads((plain / "fields.json").read_text())
    first = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist()))  # noqa: B905
    started_s = time.perf_counter()
    model, answer = Dcnv2(job, sum(sizes.values()), len(sizes)), {}
    if job["epochs"]:
        ids, label = read(plain / "train.parquet", first)
        optimizer = torch.optim.Adam(model.parameters(), lr=job["learning_rate"])
        loop_s = time.perf_counter()
        for _ in range(job["epochs"]):
            for rows in torch.randperm(len(ids)).split(job["batch"]):
                loss = binary_cross_entropy_with_logits(model(ids[rows]), label[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        loop_s = time.perf_counter() - loop_s
        answer = {"train_rate": job["epochs"] * len(ids) / loop_s, "whole_s": time.perf_counter() - started_s}
        test_ids, test_label = read(plain / "test.parquet", first)
        with torch.no_grad():
            answer["auc"] = roc_auc_score(test_label, model.eval()(test_ids))
    if job["score"]:
        started_s = time.perf_counter()
        ids, _ = read(plain / "train.parquet", first)
        with torch.no_grad():
            scores = np.concatenate([torch.sigmoid(model.eval()(part)).numpy() for part in ids.split(job["score_batch"])])
        answer["score_rate"] = len(scores) / (time.perf_counter() - started_s)
    print(json.dumps(answer))


main()
