"""What holds for every recommender model: found by its name, exercised alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch

import components.crm
from components import artifacts
from components.crm import Crm, CrmConfig, build
from components.crm.fold_in import FoldIn
from components.crm.history import HistoryChoice
from components.crm.registry import MODELS
from components.errors import ConfigError
from components.types import CrmBatch
from tests.components.crm.samples import INPUTS, batch

every_model = pytest.mark.parametrize("name", MODELS)
every_history = pytest.mark.parametrize("history", get_args(HistoryChoice))


def made(name: str, history: str = "rated", **changes: object) -> Crm:
    torch.manual_seed(0)
    config = CrmConfig(model=name, history=history, embedding_size=4, dropout=0.0, unknown_rate=0.0, user_unknown_rate=0.0)  # pyright: ignore[reportArgumentType]
    model = build(replace(config, **changes), INPUTS)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)  # far enough from 0 for differences to show
    return model


def longer(rows: CrmBatch, columns: int) -> CrmBatch:
    """The same samples with more padding on the left of their histories."""
    ids, rating = (torch.nn.functional.pad(x, (columns, 0)) for x in (rows.history_ids_BL, rows.history_rating_BL))
    return replace(rows, history_ids_BL=ids, history_rating_BL=rating)


def reordered(rows: CrmBatch) -> CrmBatch:
    """The same samples with their histories from the other end."""
    return replace(rows, history_ids_BL=rows.history_ids_BL.flip(1), history_rating_BL=rows.history_rating_BL.flip(1))


def test_every_file_of_a_model_is_in_the_registry() -> None:
    files = {path.stem for path in Path(components.crm.__file__).parent.glob("*.py") if "(Crm):" in path.read_text()}
    assert files == set(MODELS) == set(get_args(get_type_hints(CrmConfig)["model"]))


@every_model
@every_history
def test_a_model_answers_logits_and_hidden_layers_of_the_promised_widths(name: str, history: str) -> None:
    model = made(name, history)
    output = model.train()(batch())
    assert output.logits_B.shape == (3,)
    assert tuple(hidden.shape for hidden in output.hidden) == tuple((3, width) for width in model.hidden_widths)
    assert torch.isfinite(output.logits_B).all()


@every_model
@every_history
def test_every_parameter_learns(name: str, history: str) -> None:
    model = made(name, history).train()
    model(batch()).logits_B.square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@every_model
@every_history
def test_more_padding_changes_nothing(name: str, history: str) -> None:
    model = made(name, history).eval()
    torch.testing.assert_close(model(longer(batch(), 3)).logits_B, model(batch()).logits_B)


@every_model
@every_history
def test_the_order_of_a_history_changes_nothing(name: str, history: str) -> None:
    model = made(name, history).eval()
    torch.testing.assert_close(model(reordered(batch())).logits_B, model(batch()).logits_B)


@every_model
def test_the_rating_of_a_history_item_matters(name: str) -> None:
    model, other = made(name).eval(), replace(batch(), history_rating_BL=-batch().history_rating_BL)
    changed = (model(other).logits_B - model(batch()).logits_B).abs()
    assert changed[:2].min() > 1e-4
    assert changed[2] == 0, "an empty history has no ratings"


def test_without_history_and_fold_in_a_dcnv2_reads_no_history() -> None:
    fold_in = replace(CrmConfig().fold_in, size=0)
    model = made("dcnv2", "none", fold_in=fold_in).eval()
    empty = replace(batch(), history_ids_BL=torch.zeros(3, 4, dtype=torch.int64), history_rating_BL=torch.zeros(3, 4))
    assert torch.equal(model(empty).logits_B, model(batch()).logits_B)


@every_model
def test_a_sample_is_judged_by_itself(name: str) -> None:
    model, rows = made(name).eval(), batch()
    alone = CrmBatch(rows.slot_ids_BS[1:2], rows.numeric_BN[1:2], rows.history_ids_BL[1:2], rows.history_rating_BL[1:2])
    torch.testing.assert_close(model(alone).logits_B, model(rows).logits_B[1:2])


@every_model
@every_history
def test_a_history_that_all_share_is_given_once(name: str, history: str) -> None:
    model, rows = made(name, history).eval(), batch()
    once = replace(rows, history_ids_BL=rows.history_ids_BL[1:2], history_rating_BL=rows.history_rating_BL[1:2])
    each = replace(once, history_ids_BL=once.history_ids_BL.repeat(3, 1), history_rating_BL=once.history_rating_BL.repeat(3, 1))
    torch.testing.assert_close(model(once).logits_B, model(each).logits_B)


@every_model
def test_ignored_fields_and_numbers_change_nothing(name: str) -> None:
    rows = batch()
    ids, numbers = rows.slot_ids_BS.clone(), rows.numeric_BN.clone()
    ids[:, 0], numbers[:, 0] = 3, 9.0
    other, ignoring = replace(rows, slot_ids_BS=ids, numeric_BN=numbers), made(name, ignored=("user_id", "age")).eval()
    assert torch.equal(ignoring(other).logits_B, ignoring(rows).logits_B)
    assert not torch.equal(made(name).eval()(other).logits_B, made(name).eval()(rows).logits_B)


def test_a_name_that_is_no_field_cannot_be_ignored() -> None:
    with pytest.raises(
        ConfigError, match=r"crm\.ignored: expected names among user_id, item_id, genres, age, history_log_rated, got 'zip'"
    ):
        made("dcnv2", ignored=("zip",))


@every_model
def test_a_model_is_rebuilt_from_its_stored_configuration_and_weights(name: str) -> None:
    config = CrmConfig(model=name, embedding_size=4, ignored=("age",))  # pyright: ignore[reportArgumentType]
    assert artifacts.from_plain(CrmConfig, artifacts.as_plain(config)) == config
    first, second = build(config, INPUTS).eval(), build(config, INPUTS).eval()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(batch()).logits_B, second(batch()).logits_B)


@every_model
def test_a_model_runs_in_half_precision(name: str) -> None:
    output = made(name).bfloat16().eval()(batch())
    assert output.logits_B.dtype == torch.bfloat16
    torch.testing.assert_close(output.logits_B.float(), made(name).eval()(batch()).logits_B, rtol=0.05, atol=0.05)


@every_model
def test_bf16_is_for_training_alone_and_close_to_fp32(name: str) -> None:
    full, narrow = made(name), made(name, precision="bf16")
    assert torch.equal(narrow.eval()(batch()).logits_B, full.eval()(batch()).logits_B)
    outputs = [model.train()(batch()) for model in (full, narrow)]
    assert (outputs[1].logits_B.dtype, outputs[1].hidden[0].dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(outputs[1].logits_B, outputs[0].logits_B, rtol=0.05, atol=0.05)
    for output in outputs:
        output.logits_B.square().sum().backward()
    for (parameter_name, expected), found in zip(full.named_parameters(), narrow.parameters(), strict=True):
        assert expected.grad is not None
        assert found.grad is not None
        assert found.grad.dtype == torch.float32
        apart = (found.grad - expected.grad).norm() / expected.grad.norm()
        assert apart < 0.05, parameter_name


NUMBERS_OF_A_HISTORY = ("history_log_length", "history_mean_residual", "history_mean_residual_last_10")


@pytest.mark.parametrize(
    ("changes", "reads"),
    [
        ({}, (True, True)),
        ({"history": "none"}, (False, True)),
        ({"history": "none", "fold_in": FoldIn.Config(size=0)}, (False, True)),  # its numbers are read
        ({"history": "none", "fold_in": FoldIn.Config(size=0), "ignored": NUMBERS_OF_A_HISTORY}, (False, False)),
        ({"history": "none", "fold_in": FoldIn.Config(size=0), "ignored": NUMBERS_OF_A_HISTORY, "model": "din"}, (True, True)),
    ],
)
def test_a_model_says_what_it_reads_of_a_history(changes: dict[str, object], reads: tuple[bool, bool]) -> None:
    config = replace(CrmConfig(), **changes)  # pyright: ignore[reportArgumentType]
    assert (config.reads_items, config.reads_history) == reads


@pytest.mark.parametrize(
    "wrong",
    [{"model": "fm"}, {"embedding_size": 0}, {"dropout": 1.0}, {"unknown_rate": 1.5}, {"user_unknown_rate": -0.1}, {"precision": "fp16"}],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=rf"crm.*{next(iter(wrong))}.*expected|crm: expected"):
        CrmConfig(**wrong)  # pyright: ignore[reportArgumentType]
