"""Backbone: the tiny language model and its tokenizer, made from the texts of the data set."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import chain

import fsspec

from components import artifacts
from components.llm import tiny_config
from components.prompts import click
from pipelines.stage import StageContext

EXAMPLES = 2_000  # training prompts that the tokenizer learns from, beside the texts of all users and items


def run(context: StageContext, config: tiny_config.Config, history_length: int) -> None:
    """Write the artifact `backbone/`: an ordinary transformers folder with random weights."""
    from components.features.tables import dataset, load_store
    from components.llm import tiny
    from components.llm.prompt_rows import ClickRows

    tables = context.artifact("tables")
    rows = ClickRows(load_store(tables), history_length)
    samples = dataset(artifacts.join(tables, "train")).head(EXAMPLES)
    texts = chain(rows.profiles, rows.items, (click.render(example).text for example in rows.examples(samples)))
    with tempfile.TemporaryDirectory() as folder:
        tiny.make(folder, _counted(texts, context), config)
        fs, path = fsspec.core.url_to_fs(context.folder)
        fs.put(f"{folder}/", f"{path}/", recursive=True)


def _counted(texts: Iterator[str], context: StageContext) -> Iterator[str]:
    count = 0
    for text in texts:
        count += 1
        yield text
    context.facts["work"] = (count, "texts")
    context.progress.say(f"tokenizer and tiny model made from {count:,} texts")
