"""RecBole's side of the CRM's benchmarks: its own DCNV2, data set and trainer. Told by JSON; answers in JSON."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed
from sklearn.metrics import roc_auc_score

SPLITS = ("train", "valid", "test")


def settings(job, root, fields):
    return {
        "data_path": root,
        "benchmark_filename": list(SPLITS),
        "load_col": {"inter": [*fields, "label"]},
        "LABEL_FIELD": "label",
        "RATING_FIELD": None,
        "TIME_FIELD": None,
        "filter_inter_by_user_or_item": False,
        "eval_args": {"mode": "labeled"},
        "metrics": ["AUC"],
        "valid_metric": "AUC",
        "epochs": max(1, job["epochs"]),
        "train_batch_size": job["batch"],
        "eval_batch_size": job["score_batch"],
        "train_neg_sample_args": None,
        "learning_rate": job["learning_rate"],
        "embedding_size": job["embedding_size"],
        "cross_layer_num": job["cross_layers"],
        "mlp_hidden_size": job["hidden_sizes"],
        "structure": "parallel",
        "mixed": False,
        "reg_weight": 0.0,
        "dropout_prob": 0.0,
        "seed": job["seed"],
        "use_gpu": False,
        "device": "cpu",
        "state": "ERROR",
        "checkpoint_dir": root,
        "show_progress": False,
        "save_dataset": False,
    }


class Timed(Trainer):
    """Its trainer, with the seconds of its training epochs."""

    train_s = 0.0

    def _train_epoch(self, *arguments, **named):
        started_s = time.perf_counter()
        found = super()._train_epoch(*arguments, **named)
        self.train_s += time.perf_counter() - started_s
        return found


def predict(model, loader):
    model.eval()
    with torch.no_grad():
        return np.concatenate([model.predict(batch[0] if isinstance(batch, tuple) else batch).numpy() for batch in loader])


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    plain = Path(job["folder"]) / "plain"
    fields = list(json.loads((plain / "fields.json").read_text()))
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)  # it writes logs where it runs
        Path(root, "rows").mkdir()
        for split in SPLITS:  # its own format, which it reads as text
            rows = pd.read_parquet(plain / f"{split}.parquet")
            rows.columns = [*(f"{name}:token" for name in fields), "label:float"]
            rows.to_csv(Path(root, "rows", f"rows.{split}.inter"), sep="\t", index=False)
        sys.argv = sys.argv[:1]
        started_s = time.perf_counter()
        config = Config(model="DCNV2", dataset="rows", config_dict=settings(job, root, fields))
        init_seed(job["seed"], True)
        train, valid, test = data_preparation(config, create_dataset(config))
        model, answer = get_model("DCNV2")(config, train.dataset), {}
        if job["epochs"]:
            trainer = Timed(config, model)
            trainer.fit(train, valid, saved=False, show_progress=False)
            answer = {"train_rate": job["epochs"] * len(train.dataset) / trainer.train_s, "whole_s": time.perf_counter() - started_s}
            label = torch.cat([(batch[0] if isinstance(batch, tuple) else batch)["label"] for batch in test]).numpy()
            answer["auc"] = roc_auc_score(label, predict(model, test))
        if job["score"]:
            train.shuffle = False
            started_s = time.perf_counter()
            answer["score_rate"] = len(predict(model, train)) / (time.perf_counter() - started_s)
    print(json.dumps(answer))


main()
