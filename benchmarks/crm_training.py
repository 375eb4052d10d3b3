"""Training DCNv2 on a million ratings: samples/s of our first stage beside FuxiCTR, RecBole and a bare loop of torch.

python benchmarks/crm_training.py [--peers FOLDER] [--data FOLDER] [--rows N] [--batch N] [--threads N] [--rounds N] [--epochs N]
    [--kept FOLDER]

Every side trains the same shape (our defaults: embeddings of 16, 3 cross layers, a tower of 128 and 64) on the same rows with the same
batch, learning rate and number of threads (ours: as workers with one each, as the pipeline does), and is judged on the same held-out
rows; each round runs them one after another, with a seed of its own, and a figure is the median of the rounds. samples/s counts an
epoch's loop, with what reads and shuffles rows in it; the seconds in the notes go from rows on disk (Parquet; the peers' own formats) to
trained weights, for all but the bare loop with a validation after each epoch.
"""

from __future__ import annotations

from itertools import pairwise

import crm_rows
import torch
from crm_peers import BARE, OURS, arguments, ask, job, medians, rows, sides
from machine import peak_bytes, peak_flops
from outcome import NOT_RUN, Outcome, show

SUBJECTS = {"fp32": "Training DCNv2, fp32", "bf16": "Training DCNv2, its dense layers in bf16"}
GOALS = {"FuxiCTR": 2.0, BARE: 1.6}


def flops(told: dict) -> float:
    """Return the operations of training on one sample: products alone, three of each (forward, and the gradients of both factors)."""
    width = len(crm_rows.FIELDS) * told["embedding_size"]
    sizes = [width, *told["hidden_sizes"]]
    products = told["cross_layers"] * width**2 + sum(a * b for a, b in pairwise(sizes)) + width + sizes[-1]
    return 3 * 2.0 * products


def bytes_moved(told: dict) -> float:
    """Return the bytes that one sample cannot do without: its ids and label, its vectors read and their gradients added to the table."""
    fields = len(crm_rows.FIELDS)
    return 8 * fields + 4 + 4 * 4 * fields * told["embedding_size"]


def by_seed(answers: list[dict[str, float]]) -> str:
    return " ".join(f"{answer['auc']:.4f}" for answer in answers)


def main() -> None:
    options = arguments(__doc__, epochs={"type": int, "default": 1})
    lacking = crm_rows.lacking(options.data)
    if lacking:
        show([Outcome(subject, "samples/s", NOT_RUN, {}, {}, notes=lacking) for subject in SUBJECTS.values()])
        return
    torch.set_num_threads(options.threads)
    with rows(options) as (folder, counts):
        told = job(options, folder, epochs=options.epochs)
        commands = sides(options)
        answers: dict[str, list[dict[str, float]]] = {name: [] for name in (*SUBJECTS, *commands)}
        for seed in range(1, options.rounds + 1):
            for precision in SUBJECTS:
                answers[precision].append(ask(OURS, {**told, "seed": seed, "precision": precision}))
            for name, command in commands.items():
                if not isinstance(command, str):
                    answers[name].append(ask(command, {**told, "seed": seed}))
    found = medians(answers)
    peers = {name: found[name]["train_rate"] if name in found else command for name, command in commands.items()}
    threads = f"{options.threads} thread(s), ours as workers of one each"
    notes = f"{counts['train']:,} rows, batch {options.batch}, {threads}; AUC on {counts['test']:,} others, s in all: "
    beside = "; ".join(f"{name} {by_seed(answers[name])}, {found[name]['whole_s']:.1f} s" for name in commands if name in found)
    floors = {
        precision: 1.0 / (flops(told) / peak_flops(dtype) + bytes_moved(told) / peak_bytes())
        for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    }
    show(
        [
            Outcome(
                subject,
                "samples/s",
                found[precision]["train_rate"],
                peers,
                GOALS,
                floors[precision],
                f"{notes}Tandem {by_seed(answers[precision])}, {found[precision]['whole_s']:.1f} s; {beside}",
            )
            for precision, subject in SUBJECTS.items()
        ]
    )


if __name__ == "__main__":
    main()
