from pathlib import Path

import numpy as np
import pytest

from components.llm import backbone, scorer
from components.prompts import click
from tests.components.llm import families


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_packed_scores_equal_those_of_one_prompt_at_a_time(tmp_path: Path, name: str) -> None:
    config = backbone.Config(path=str(families.save(name, tmp_path / name)))
    llm, _ = backbone.load(config)
    encoder = backbone.load_encoder(config, 500)
    prompts = [
        encoder.encode(click.render(families.example(lines, title))).token_ids for lines in (9, 0, 3, 17) for title in families.TITLES
    ]
    llm.train()
    packed = scorer.score(llm, prompts, max_batch_tokens=600)
    assert llm.training
    alone = np.array([scorer.score(llm, [prompt])[0] for prompt in prompts])
    assert packed.dtype == np.float64
    assert packed.std() > 0.01
    np.testing.assert_allclose(packed, alone, atol=1e-5, rtol=0)


def test_no_prompts_have_no_scores(tmp_path: Path) -> None:
    llm, _ = backbone.load(backbone.Config(path=str(families.save("llama", tmp_path))))
    assert scorer.score(llm, []).shape == (0,)


def test_batches_hold_rows_of_like_length_within_the_token_budget() -> None:
    batches = [rows.tolist() for rows in scorer.packed(np.array([3, 10, 4, 10, 2]), max_batch_tokens=20)]
    assert batches == [[1, 3], [2, 0, 4]]  # 2 x 10 tokens, then 3 x 4


def test_a_prompt_over_the_budget_makes_a_batch_of_its_own() -> None:
    assert [rows.tolist() for rows in scorer.packed(np.array([30, 5]), max_batch_tokens=20)] == [[0], [1]]
