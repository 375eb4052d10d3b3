from pathlib import Path

import numpy as np

from components.llm import backbone, scorer
from components.llm.by_prefix import score_prompts
from components.prompts import click
from tests.components.llm import families


def test_samples_score_as_their_whole_prompts_do_and_share_their_prefix(tmp_path: Path) -> None:
    config = backbone.Config(path=str(families.save("llama", tmp_path)))
    llm, encoder = backbone.load(config)[0], backbone.load_encoder(config, 500)
    histories = (9, 0, 9, 3, 0, 9)  # whose samples do not stand together
    encoded = [
        encoder.encode(click.render(families.example(lines, title))) for lines, title in zip(histories, families.TITLES, strict=True)
    ]
    prompts, lengths = [each.token_ids for each in encoded], [each.prefix_length for each in encoded]
    read: list[int] = []
    within = llm.language_model.model.layers[0].post_attention_layernorm
    with within.register_forward_pre_hook(lambda _, inputs: read.append(len(inputs[0]))):
        found = score_prompts(llm, prompts, lengths)
    assert np.abs(found - scorer.score(llm, prompts)).max() < 1e-5
    assert sum(read) <= sum(lengths[row] for row in (0, 1, 3)) + sum(
        len(prompt) - length for prompt, length in zip(prompts, lengths, strict=True)
    )
    assert score_prompts(llm, [], []).shape == (0,)
    elsewhere = score_prompts(llm, prompts, lengths, device="cpu:0")  # a name that stands for a device other than "cpu"
    assert np.abs(elsewhere - found).max() < 1e-5
