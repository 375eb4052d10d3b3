"""Scoring a million rows with DCNv2: rows/s from Parquet to probabilities beside FuxiCTR, RecBole and a bare loop of torch.

python benchmarks/crm_scoring.py [--peers FOLDER] [--data FOLDER] [--rows N] [--threads N] [--rounds N] [--kept FOLDER]

Every side scores the same rows with the same shape, untrained, the peers in batches of 8,192 on as many threads as we have processes,
we in the blocks of our stage.
Reading counts for us and the bare loop (Parquet) and for FuxiCTR (its npz); RecBole has its rows in memory. Rounds run the sides one
after another; figures are medians.
"""

from __future__ import annotations

import crm_rows
import torch
from crm_peers import OURS, arguments, ask, job, medians, rows, sides
from crm_training import flops
from machine import peak_bytes, peak_flops
from outcome import NOT_RUN, Outcome, show

from pipelines import score

SUBJECT = "Scoring with DCNv2, from disk to probabilities"


def main() -> None:
    options = arguments(__doc__)
    lacking = crm_rows.lacking(options.data)
    if lacking:
        show([Outcome(SUBJECT, "rows/s", NOT_RUN, {}, {}, notes=lacking)])
        return
    torch.set_num_threads(options.threads)
    with rows(options) as (folder, counts):
        told = job(options, folder, score=True, seed=1)
        commands = {"Tandem": OURS, **sides(options)}
        blocks = {**told, "score_batch": score.Config().rows_per_block}  # as our stage does
        answers: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                if not isinstance(command, str):
                    answers[name].append(ask(command, blocks if name == "Tandem" else told))
    found = medians(answers)
    peers = {name: found[name]["score_rate"] if name in found else command for name, command in commands.items() if name != "Tandem"}
    fields = len(crm_rows.FIELDS)
    moved = 8 * fields + 2 * 4 * fields * told["embedding_size"]
    floor = 1.0 / (flops(told) / 3 / peak_flops() + moved / peak_bytes())
    notes = f"{counts['train']:,} rows, {options.threads} thread(s), ours as processes of one each"
    show([Outcome(SUBJECT, "rows/s", found["Tandem"]["score_rate"], peers, {"FuxiCTR": 3.0}, floor, notes)])  # pyright: ignore[reportArgumentType]


if __name__ == "__main__":
    main()
