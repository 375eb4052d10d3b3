"""What workers do in the tests of the engines: train the same tiny models on the same batches, each with an engine of its own."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding

from components.crm import CrmConfig
from components.crm import build as build_crm
from components.crm.dcnv2 import Dcnv2
from components.crm.din import Din
from components.crm.embedding import Table
from components.errors import ArtifactError
from components.features.store import FeatureStore
from components.features.tables import load_store, read_samples
from components.joint import alignment
from components.joint.alignment import Alignment
from components.joint.data import Inputs, Window
from components.joint.deepspeed_engine import Config, DeepSpeedEngine
from components.joint.engine import Engine, ParameterGroup, TorchEngine
from components.joint.model import JointBatch, JointModel, LossWeights
from components.llm import backbone
from tests.components.joint.traps import Trap

ROWS = 16  # of a global batch
CLIPPING = 0.5  # below the first gradients' norm, so that clipping is compared too
CRM_RATE, LLM_RATE, DECAY = 2e-3, 4e-3, 0.01
RATES = (1.0, 0.5, 0.25, 1.0, 0.75, 0.5)  # of the peaks, one a step
CRM = CrmConfig(
    embedding_size=4,
    dropout=0.0,
    unknown_rate=0.0,
    user_unknown_rate=0.0,
    dcnv2=Dcnv2.Config(hidden_sizes=(8,)),
    din=Din.Config(attention_sizes=(8,), hidden_sizes=(8,), activation="dice"),
)


@dataclass(frozen=True)
class Case:
    """What is trained, by which engine."""

    folder: Path
    zero: int | None = None  # None: torch's engine
    models: tuple[str, ...] = ("crm", "llm")
    tied: bool = True
    lora: bool = False
    crm: str = "dcnv2"
    precision: str = "fp32"
    accumulation: int = 1
    steps: int = 4
    sparse: bool = False  # tables


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    losses: list[dict[str, float]]  # of each step, mean over workers
    weights: dict[str, Any]  # numpy arrays by their names in the joint model
    elements: int  # of AdamW's two moments that this worker holds


def plainly(rank: int, workers: int, case: Case) -> Outcome:
    """Train without any engine: torch's AdamW on whole global batches, and its SparseAdam on tables where they are sparse."""
    if case.sparse:
        Table.forward = _sparse_rows
    model = joint_model(case)
    rates = {"crm": CRM_RATE, "llm": LLM_RATE, "alignment": CRM_RATE}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [{"params": [parameter], "lr": 0.0, "peak": rates[name.split(".")[0]]} for name, parameter in trained.items()]
    tables = {module.weight for module in model.modules() if case.sparse and isinstance(module, Table)}
    lazy, dense = ([group for group in groups if (group["params"][0] in tables) == wanted] for wanted in (True, False))
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(dense, betas=(0.9, 0.999), weight_decay=DECAY)]
    optimizers += [torch.optim.SparseAdam(lazy, betas=(0.9, 0.999))] if lazy else []
    losses: list[dict[str, float]] = []
    for batch, rate in zip(global_batches(case), RATES, strict=False):
        for group in groups:
            group["lr"] = group["peak"] * rate
        output = model(batch)
        output.loss.backward()
        gradients = [parameter.grad for parameter in trained.values() if parameter.grad is not None]
        norm = torch.cat([gradient.to_dense().ravel() for gradient in gradients]).norm()
        for gradient in gradients:
            gradient *= min(1.0, CLIPPING / (norm.item() + 1e-6))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append({name: float(value.detach()) for name, value in {"loss": output.loss, **output.parts}.items()})
    return Outcome(losses, arrays(trained), sum(map(_elements, optimizers)))


def _sparse_rows(table: Table, *ids: Tensor) -> tuple[Tensor, ...]:
    return tuple(embedding(each, table.weight, padding_idx=0, sparse=True) for each in ids)


def by_engine(rank: int, workers: int, case: Case) -> Outcome:
    """Train with the case's engine."""
    engine = open_engine(case, workers)
    losses = steps(engine, case, rank, workers, range(case.steps))
    outcome = Outcome(losses, arrays(engine.weights(engine.model)), _held(engine))
    engine.close()
    return outcome


def stop_and_go_on(rank: int, workers: int, case: Case, folder: Path) -> tuple[list[dict[str, float]], dict[str, Any], list[str]]:
    """Save after half of the steps, take the other half with a fresh engine; return what came of that and the files saved."""
    engine = open_engine(case, workers)
    half = case.steps // 2
    steps(engine, case, rank, workers, range(half))
    engine.save(folder)
    engine.close()
    fresh = open_engine(case, workers)
    fresh.load(folder)
    losses = steps(fresh, case, rank, workers, range(half, case.steps))
    weights = arrays(fresh.weights(fresh.model))
    fresh.close()
    return losses, weights, sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def trapped(rank: int, workers: int, case: Case, folder: Path) -> tuple[list[str], list[str]]:
    """Put a trap in the place of each file of weights in turn; return the files, and those with which it was refused."""
    engine = open_engine(case, workers)
    steps(engine, case, rank, workers, range(1))
    engine.save(folder)
    engine.close()
    files, refused = sorted(folder.rglob("*.pt")), list[str]()
    for path in files:
        whole = path.read_bytes()
        torch.save({"module": Trap(folder / "marker")}, path)
        fresh = open_engine(case, workers)
        try:
            fresh.load(folder)
        except ArtifactError as error:
            refused.append(str(error).partition(": expected tensors")[0])
        fresh.close()
        path.write_bytes(whole)
    return [str(path) for path in files], refused


def two_stages(rank: int, workers: int, case: Case) -> tuple[Outcome, int]:
    """Train the joint stage, then the LLM alone from where that left it; return what came of the second and what is left of the first."""
    first = open_engine(case, workers)
    steps(first, case, rank, workers, range(2))
    alone = replace(case, models=("llm",))
    kept, started = first.weights(first.model), [weakref.ref(parameter) for parameter in first.model.parameters()]
    first.close()
    del first
    gc.collect()
    model = joint_model(alone)
    model.load_state_dict({name: value for name, value in kept.items() if name.startswith("llm.")}, strict=False)
    second = open_engine(alone, workers, model)
    losses = steps(second, alone, rank, workers, range(2))
    return Outcome(losses, arrays(second.weights(second.model)), 0), sum(parameter() is not None for parameter in started)


def joint_model(case: Case) -> JointModel:
    torch.manual_seed(3)
    store = load_store(str(case.folder / "tables"))
    finetune = "lora" if case.lora else "full"
    path = case.folder / ("backbone" if case.tied else "backbone-untied")
    config = backbone.Config(path=str(path), finetune=finetune, lora_rank=2, lora_dropout=0.0)
    crm = build_crm(replace(CRM, model=case.crm), store.inputs) if "crm" in case.models else None
    llm = backbone.load(config)[0] if "llm" in case.models else None
    between = Alignment(alignment.Config(width=4), llm.hidden_size, llm.blocks, crm.hidden_widths) if crm and llm else None
    weights = dict.fromkeys(case.models, 1.0)
    return JointModel(crm, llm, between, LossWeights(**weights, alignment=0.1 if between else 0.0))


def open_engine(case: Case, workers: int, model: JointModel | None = None) -> Engine:
    model = model or joint_model(case)
    parts = [(model.crm, CRM_RATE), (model.llm, LLM_RATE), (model.alignment, CRM_RATE)]
    groups = [ParameterGroup([p for p in part.parameters() if p.requires_grad], rate, DECAY) for part, rate in parts if part]
    if case.zero is None:
        return TorchEngine(model, groups, "cpu", CLIPPING, case.sparse)
    config = Config(zero_stage=case.zero, precision=case.precision, gradient_clipping=CLIPPING)  # pyright: ignore[reportArgumentType]
    return DeepSpeedEngine(model, groups, "cpu", config, ROWS // workers // case.accumulation, case.accumulation)


def steps(engine: Engine, case: Case, rank: int, workers: int, numbers: Sequence[int]) -> list[dict[str, float]]:
    window = _window(case)
    losses: list[dict[str, float]] = []
    for number in numbers:
        rows = _rows(number)[rank::workers]
        found = engine.step(window.micro_batches(rows, len(rows) // case.accumulation), RATES[number])
        values = torch.stack(list(found.values()))
        torch.distributed.all_reduce(values)
        losses.append(dict(zip(found, (values / workers).tolist(), strict=True)))
    return losses


def global_batches(case: Case) -> list[JointBatch]:
    window = _window(case)
    return [window.batch(_rows(number)) for number in range(case.steps)]


def arrays(tensors: dict[str, Tensor]) -> dict[str, Any]:
    return {name: tensor.detach().float().numpy().copy() for name, tensor in tensors.items()}


def _window(case: Case) -> Window:
    store: FeatureStore = load_store(str(case.folder / "tables"))
    layout = backbone.load_encoder(backbone.Config(path=str(case.folder / "backbone")), 256).layout
    samples = read_samples(str(case.folder / "prompts" / "joint"))
    return Window(samples, Inputs(store, layout, crm="crm" in case.models, llm="llm" in case.models))


def _rows(number: int) -> np.ndarray:
    return np.random.default_rng(number).permutation(96)[:ROWS]


def _held(engine: Engine) -> int:
    return sum(map(_elements, engine._optimizers)) if isinstance(engine, TorchEngine) else _elements(vars(engine)["_optimizer"])


def _elements(optimizer: Any) -> int:
    """Count the elements of AdamW's two moments, also of one that DeepSpeed wrapped."""
    state = getattr(optimizer, "optimizer", optimizer).state
    return sum(value.numel() for moments in state.values() for name, value in moments.items() if name in ("exp_avg", "exp_avg_sq"))
