"""Recipes: functions that return a whole configuration. A variant is `replace(...)` of another."""

from __future__ import annotations

from dataclasses import replace

from components.crm import CrmConfig
from components.crm.dcnv2 import Dcnv2
from components.crm.fold_in import FoldIn
from components.datasets.amazon import Amazon
from components.datasets.collm import CollmMl1m
from components.datasets.demo import Demo
from components.datasets.movielens import MovieLens1m, MovieLens100k
from components.datasets.tabular import Tabular
from components.features.store import HISTORY_NUMBERS
from components.joint import deepspeed_engine
from components.joint.model import LossWeights
from components.joint.plan import StageConfig
from components.llm import config as llm_config
from components.llm import tiny_config
from pipelines import prepare, prompts, score, train
from pipelines.config import RunConfig
from tune import search

SMALLEST = tiny_config.Config(hidden_size=64, layers=2, heads=2, intermediate=192, vocabulary_size=2048)
SMALL_CHECKPOINT_S = 45.0  # a checkpoint of the smallest models takes a fraction of a second
# With up to some 100,000 rows, vectors of ids only memorise: taste comes from the fold-in of the history, quality from its offsets.
SMALL_DATA_CRM = CrmConfig(history="none", ignored=("user_id", "item_id"))
# DCNv2 over ids and attributes, in the shape that the authors published with KAR, as CoReLLa prints none. What is ours is left out:
# fold-in, histories and numbers made of them, ids read as unknown.
CORELLA_CRM = CrmConfig(
    embedding_size=32,
    history="none",
    fold_in=FoldIn.Config(size=0),
    unknown_rate=0.0,
    user_unknown_rate=0.0,
    ignored=HISTORY_NUMBERS,
    dropout=0.0,
    dcnv2=Dcnv2.Config(cross_layers=3, hidden_sizes=(200, 80)),
)


def demo() -> RunConfig:
    """Generated data, a tiny LLM trained from scratch: the whole chain in minutes on any machine."""
    return RunConfig(
        "demo",
        Demo.Config(),
        crm=SMALL_DATA_CRM,
        tiny=SMALLEST,
        prompts=prompts.Config(history_length=3, max_tokens=192, joint_samples=6_000, llm_samples=100_000, early_stopping_samples=1_000),
        train=train.Config(
            joint=StageConfig(LossWeights(llm=1.0, crm=1.0, alignment=0.1), epochs=1, micro_batch=8),
            llm=StageConfig(LossWeights(llm=1.0), epochs=2, micro_batch=8),
            deepspeed=deepspeed_engine.Config(precision="fp32"),
            checkpoint_every_s=SMALL_CHECKPOINT_S,
        ),
        tune=search.Config(max_llm_share=0.25),
    )


def ml_100k() -> RunConfig:
    """MovieLens-100K, a tiny LLM trained from scratch: real data on a laptop."""
    return RunConfig(
        "ml-100k",
        MovieLens100k.Config(),
        prepare=prepare.Config(history_length=100, expected_rows=(76_228, 9_528, 9_529)),
        # 943 profiles: too few people to learn from who they are; most test users are not among them.
        crm=replace(SMALL_DATA_CRM, ignored=(*SMALL_DATA_CRM.ignored, "age", "gender", "occupation", "zip")),
        tiny=SMALLEST,
        prompts=prompts.Config(history_length=10, joint_samples=20_000, llm_samples=56_000),
        train=train.Config(llm=StageConfig(LossWeights(llm=1.0), epochs=2, micro_batch=16), checkpoint_every_s=SMALL_CHECKPOINT_S),
    )


def ml_1m() -> RunConfig:
    """MovieLens-1M by the published protocol (ReLLa)."""
    base = ml_100k()
    return replace(
        base,
        recipe="ml-1m",
        dataset=MovieLens1m.Config(),
        prepare=prepare.Config(expected_rows=(776_007, 97_000, 97_002)),
        crm=CrmConfig(ignored=("zip",)),
        train=replace(base.train, warmup=replace(base.train.warmup, micro_batch=1024, crm_learning_rate=1e-3, weight_decay=0.01)),
    )


def ml_1m_collm() -> RunConfig:
    """The MovieLens-1M split published with CoLLM, as shipped."""
    return replace(
        ml_100k(),
        recipe="ml-1m-collm",
        dataset=CollmMl1m.Config(),
        prepare=prepare.Config(history_length=100, expected_rows=(33_891, 10_401, 7_331)),
        # Histories end with training, so later users have no latest ratings, and what ratings there are tell less of them.
        crm=replace(
            SMALL_DATA_CRM,
            ignored=(*SMALL_DATA_CRM.ignored, "history_mean_residual_last_10"),
            fold_in=replace(SMALL_DATA_CRM.fold_in, gain=1.0),
        ),
        prompts=prompts.Config(history_length=10, joint_samples=10_000, llm_samples=23_891),
    )


def amazon() -> RunConfig:
    """Amazon reviews: rating 5 is positive, users and items with few reviews left out."""
    return replace(ml_100k(), recipe="amazon", dataset=Amazon.Config(), prepare=prepare.Config(min_history=1), crm=SMALL_DATA_CRM)


def tabular() -> RunConfig:
    """Your own tables: any columns, mapped by `--dataset.*`."""
    return replace(ml_100k(), recipe="tabular", dataset=Tabular.Config(), prepare=prepare.Config(min_history=1), crm=SMALL_DATA_CRM)


def corella() -> RunConfig:
    """The paper's scale: MovieLens-1M, Llama-2-7b-chat with LoRA under ZeRO-3 in bf16 on GPU workers.

    Not published, so ours: learning rates, batches, LoRA, the aligned layers, the exponent, and when training stops.
    """
    base = ml_1m()
    return replace(
        base,
        recipe="corella",
        crm=CORELLA_CRM,
        llm=llm_config.Config(
            path="meta-llama/Llama-2-7b-chat-hf",
            revision="f5db02db724555f92da89c216ac04704f23d4590",
            finetune="lora",
            lora_targets=("q_proj", "v_proj"),
            dtype="bfloat16",
            gradient_checkpointing=True,
        ),
        prompts=prompts.Config(history_length=30, max_tokens=2048, joint_samples=25_000, llm_samples=25_000),
        score=score.Config(llm_actors=4, use_gpu="yes", max_batch_tokens=65_536),
        train=replace(
            base.train,
            workers=4,
            cpus_per_worker=4,
            use_gpu="yes",
            deepspeed=deepspeed_engine.Config(zero_stage=3, precision="bf16"),
            checkpoint_every_s=train.Config.checkpoint_every_s,  # its checkpoints are not small
            warmup=replace(base.train.warmup, epochs=20, micro_batch=512, weight_decay=0.0),
            joint=StageConfig(
                LossWeights(llm=1.0, crm=1.0, alignment=0.1), epochs=1, micro_batch=8, accumulation=4, llm_learning_rate=3e-4
            ),
            llm=StageConfig(LossWeights(llm=1.0), epochs=1, micro_batch=8, accumulation=4, llm_learning_rate=3e-4),
        ),
    )


RECIPES = {
    "demo": demo,
    "ml-100k": ml_100k,
    "ml-1m": ml_1m,
    "ml-1m-collm": ml_1m_collm,
    "amazon": amazon,
    "tabular": tabular,
    "corella": corella,
}
