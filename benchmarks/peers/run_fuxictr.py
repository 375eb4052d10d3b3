"""FuxiCTR's side of the CRM's benchmarks, told and answering in JSON: its blocks put together as DCNv2, its npz loader and its loop."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders import RankDataLoader
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything
from sklearn.metrics import roc_auc_score
from torch import nn


class Dcnv2(BaseModel):
    """The cross network beside the tower."""

    def __init__(self, feature_map, job, root):
        super().__init__(
            feature_map, model_id="dcnv2", gpu=-1, monitor="AUC", metrics=["AUC"], verbose=0, model_root=root, task="binary_classification"
        )
        width = len(feature_map.features) * job["embedding_size"]
        self.embedding_layer = FeatureEmbedding(feature_map, job["embedding_size"])
        self.cross = CrossNetV2(width, job["cross_layers"])
        self.tower = MLP_Block(input_dim=width, output_dim=None, hidden_units=job["hidden_sizes"], hidden_activations="ReLU")
        self.head = nn.Linear(width + job["hidden_sizes"][-1], 1)
        self.compile("adam", "binary_crossentropy", job["learning_rate"])
        self.reset_parameters()
        self.model_to_device()
        self.validation_s = 0.0

    def forward(self, inputs):
        read = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        logit = self.head(torch.cat([self.cross(read), self.tower(read)], dim=-1))
        return {"y_pred": self.output_activation(logit)}

    def eval_step(self):
        started_s = time.perf_counter()
        super().eval_step()
        self.validation_s += time.perf_counter() - started_s


def main():
    job = json.loads(sys.argv[1])
    torch.set_num_threads(job["threads"])
    seed_everything(job["seed"])
    plain = Path(job["folder"]) / "plain"
    sizes = json.loads((plain / "fields.json").read_text())
    with tempfile.TemporaryDirectory() as root:
        Path(root, "rows").mkdir()
        features = FeatureMap("rows", root)
        for name, size in sizes.items():
            features.features[name] = {"type": "categorical", "vocab_size": size, "source": ""}
        features.labels, features.num_fields = ["label"], len(sizes)
        features.set_column_index()
        for split in ("train", "valid", "test"):  # its own format, which it would make first
            np.savez(
                Path(root, f"{split}.npz"),
                **{name: column.to_numpy() for name, column in pd.read_parquet(plain / f"{split}.parquet").items()},
            )
        path = {split: f"{root}/{split}.npz" for split in ("train", "valid", "test")}
        started_s = time.perf_counter()
        model, answer = Dcnv2(features, job, root), {}
        if job["epochs"]:
            train, valid = RankDataLoader(
                features, stage="train", train_data=path["train"], valid_data=path["valid"], batch_size=job["batch"]
            )
            loop_s = time.perf_counter()
            model.fit(train, epochs=job["epochs"], validation_data=valid)
            loop_s = time.perf_counter() - loop_s - model.validation_s
            answer = {"train_rate": job["epochs"] * train.num_samples / loop_s, "whole_s": time.perf_counter() - started_s}
            test = RankDataLoader(features, stage="test", test_data=path["test"], batch_size=job["batch"])
            label = np.load(path["test"])["label"]
            answer["auc"] = roc_auc_score(label, model.predict(test))
        if job["score"]:
            started_s = time.perf_counter()
            rows = RankDataLoader(features, stage="test", test_data=path["train"], batch_size=job["score_batch"])
            answer["score_rate"] = len(model.predict(rows)) / (time.perf_counter() - started_s)
    print(json.dumps(answer))


main()
