"""Scoring with the LLM: candidates/s of many users, 50 candidates each after 30 rated items, beside other engines.

python benchmarks/llm_scoring.py [--peers FOLDER] [--data FOLDER] [--users N] [--shape S|L] [--threads N] [--rounds N] [--cpu]

The prompts are the project's own, of MovieLens-100K where it is found and of the generated demo data elsewhere; the model is a random
Llama. Each round scores a part of the users with Tandem and parts of those with the others, one after another on the same cores, and a
figure is the median of the rounds. The plain way is what one writes first with transformers: padded batches of whole prompts, all
logits. It is slow, so that it scores one user a round. Writing and tokenizing prompts is in no figure. The largest distance of a
probability from that of the plain way in fp32 stands in the notes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from llm_prompts import MOVIELENS, SHAPES, Questions, encode, make_model
from machine import peak_flops
from numpy.typing import NDArray
from outcome import NOT_INSTALLED, NOT_RUN, Outcome, alternate, show
from transformers import AutoModelForCausalLM, PreTrainedModel

from components.llm import backbone, tiny_config
from components.llm.prefix_cache import PrefixCache
from components.llm.shared_prefix import score_shared, shortened
from components.llm.tokens import SharedPrompts

HISTORY, CANDIDATES, PLAIN_BATCH, PEER_USERS = 30, 50, 32, 10
PLAIN = "transformers fp32, padded"
RETRIEVED = f"{PLAIN}, retrieved"
# Engine, precision, and which of our rows it is compared with.
PEERS = {
    "ONNX Runtime fp32, shared prefix": ("onnxruntime", "fp32", "fp32"),
    "OpenVINO fp32, shared prefix": ("openvino", "fp32", "fp32"),
    "CTranslate2 fp32, static prompt": ("ctranslate2", "float32", "fp32"),
    "OpenVINO bf16, shared prefix": ("openvino", "bf16", "bf16"),
}
GOALS = {"fp32": {PLAIN: 30.0}, "bf16": {PLAIN: 45.0}, "retrieved": {}, "known": {}}
Score = Callable[[Sequence[SharedPrompts]], NDArray[np.float64]]
Clock = Callable[[], float]


class Side:
    """A way to score, its users of each round, and what it said of them."""

    def __init__(self, score: Score, users: Sequence[SharedPrompts], each_round: int, clock: Clock) -> None:
        self._score, self._users, self._each, self._clock, self._round = score, users, each_round, clock, 0
        self.found: dict[int, NDArray[np.float64]] = {}

    def warm_up(self) -> None:
        self._score(self._users[: min(self._each, 20)])

    def __call__(self) -> float:
        """Score the users of the next round and return candidates/s."""
        start = self._round * self._each % len(self._users)
        part = self._users[start : start + self._each]
        self._round += 1
        started_s = self._clock()
        p = self._score(part)
        took_s = self._clock() - started_s
        self.found.update(zip(range(start, start + len(part)), np.split(p, len(part)), strict=True))
        return len(p) / took_s


def tandem(model: str, dtype: torch.dtype, cache: PrefixCache | None = None) -> Score:
    llm = backbone.load(backbone.Config(path=model))[0].to(dtype)
    return lambda users: np.concatenate(score_shared(llm, users, cache=cache))


def plain(model: str) -> Score:
    """Score whole prompts in padded batches with all logits, as a first script with transformers does."""
    answers = backbone.load_encoder(backbone.Config(path=model), 100).layout.answer_ids
    whole: PreTrainedModel = AutoModelForCausalLM.from_pretrained(model, local_files_only=True).eval()

    def score(users: Sequence[SharedPrompts]) -> NDArray[np.float64]:
        prompts = [np.concatenate([user.prefix, suffix]).astype(np.int64) for user in users for suffix in user.suffixes]
        found: list[torch.Tensor] = []
        with torch.inference_mode():
            for start in range(0, len(prompts), PLAIN_BATCH):
                batch = [torch.from_numpy(prompt) for prompt in prompts[start : start + PLAIN_BATCH]]
                tokens = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
                last = torch.tensor([len(prompt) - 1 for prompt in batch])
                mask = torch.arange(tokens.shape[1]) <= last[:, None]
                logits = whole(input_ids=tokens, attention_mask=mask.long()).logits
                found.append(logits[torch.arange(len(batch)), last][:, list(answers)].double().softmax(-1)[:, 1])
        return torch.cat(found).numpy()

    return score


class Peer:
    """Another engine in a process of its own."""

    def __init__(self, command: Sequence[str], users: int) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._users, self._round = users, 0
        self.found: dict[int, NDArray[np.float64]] = {}

    def wait(self) -> str:
        """Return nothing once it can score, else why it can't."""
        assert self._process.stdout
        assert self._process.stderr
        for line in self._process.stdout:
            if line.strip() == "ready":
                return ""
        return f"{NOT_RUN}: {(self._process.stderr.read().strip().splitlines() or ['it said nothing'])[-1][:200]}"

    def __call__(self) -> float:
        assert self._process.stdin
        assert self._process.stdout
        start = self._round * PEER_USERS % self._users
        stop = min(start + PEER_USERS, self._users)
        self._round += 1
        self._process.stdin.write(json.dumps([start, stop]) + "\n")
        self._process.stdin.flush()
        took_s, p = json.loads(self._process.stdout.readline())
        self.found.update(zip(range(start, stop), np.split(np.array(p), stop - start), strict=True))
        return len(p) / took_s

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def peers(folder: Path, options: argparse.Namespace, users: Sequence[SharedPrompts]) -> Iterator[dict[str, Peer | str]]:
    """Yield the engines that are installed, ready to score, and of the others why they can't."""
    found: dict[str, Peer | str] = {}
    with ExitStack() as stack:
        for name, (engine, precision, _) in PEERS.items():
            python = Path(options.peers) / engine / "bin" / "python"
            if not python.exists():
                found[name] = NOT_INSTALLED
                continue
            script = str(Path(__file__).with_name("llm_peers.py"))
            peer = Peer(
                [str(python), script, engine, precision, str(options.threads), str(folder), "cpu" if options.cpu else "wall"], len(users)
            )
            stack.callback(peer.end)
            found[name] = peer.wait() or peer  # one after the other: making graphs takes all cores
        yield found


def hand_over(folder: Path, model: str, users: Sequence[SharedPrompts]) -> None:
    """Write what the engines read; they get the tokens that all candidates begin with as part of the prefix, as ours finds by itself."""
    readings = [shortened(user) for user in users]
    suffixes = [suffix for each in readings for suffix in each.suffixes]
    np.savez(
        folder / "prompts.npz",
        prefixes=np.concatenate([each.prefix for each in readings]),
        prefix_ends=np.cumsum([len(each.prefix) for each in readings]),
        suffixes=np.concatenate(suffixes),
        suffix_ends=np.cumsum([len(each) for each in suffixes]),
        user_ends=np.cumsum([len(each.suffixes) for each in readings]),
    )
    torch.save(AutoModelForCausalLM.from_pretrained(model, local_files_only=True).state_dict(), folder / "weights.pt")
    (folder / "answers.json").write_text(json.dumps(backbone.load_encoder(backbone.Config(path=model), 100).layout.answer_ids))


def flops(shape: tiny_config.Config, users: Sequence[SharedPrompts]) -> float:
    """Return the operations that scores cannot do without: products alone, of a last layer only what the answers need."""
    hidden, total = shape.hidden_size, 0.0
    values, rest = 4.0 * hidden**2, 4.0 * hidden**2 + 6.0 * hidden * shape.intermediate  # of a token: keys and values, all else
    for reading in map(shortened, users):
        prefix, lengths = len(reading.prefix), np.array([len(suffix) for suffix in reading.suffixes])
        seen = prefix * (prefix + 1) / 2 + (lengths * prefix + lengths * (lengths + 1) / 2).sum()
        tokens, candidates = prefix + lengths.sum(), len(lengths)
        total += (shape.layers - 1) * (tokens * (values + rest) + 4.0 * hidden * seen)
        total += tokens * values + candidates * (rest + 4.0 * hidden) + 4.0 * hidden * (prefix + lengths).sum()
    return total


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peers", default=".peers", help="folder of the virtual environments that benchmarks/peers.sh makes")
    parser.add_argument("--data", default=MOVIELENS, help="folder of MovieLens-100K; generated data where it is missing")
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds: with one thread, what else runs matters little then")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    questions = Questions(options.data, HISTORY, CANDIDATES)
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        model = make_model(str(folder / "model"), options.shape, questions)
        asked = questions.of(options.users)
        users, retrieved = encode(asked, model, "latest"), encode(asked[: 2 * options.rounds], model, "retrieved")
        hand_over(folder, model, users)
        each_round = -(-len(users) // options.rounds)
        clock = time.process_time if options.cpu else time.perf_counter
        known = users[:20]
        fp32, bf16, whole = tandem(model, torch.float32), tandem(model, torch.bfloat16), plain(model)
        sides = {
            PLAIN: Side(whole, users, 1, clock),
            "fp32": Side(fp32, users, each_round, clock),
            "bf16": Side(bf16, users, each_round, clock),
            "known": Side(tandem(model, torch.float32, PrefixCache(1 << 30)), known, len(known), clock),
            "retrieved": Side(fp32, retrieved, 2, clock),
            RETRIEVED: Side(whole, retrieved, 1, clock),
        }
        for side in sides.values():
            side.warm_up()
        with peers(folder, options, users) as others:
            works: dict[str, Any] = {**sides, **{name: peer for name, peer in others.items() if isinstance(peer, Peer)}}
            rates = alternate(works, options.rounds)
        report(options, questions, users, retrieved, rates, works, others)


def report(
    options: argparse.Namespace,
    questions: Questions,
    users: Sequence[SharedPrompts],
    retrieved: Sequence[SharedPrompts],
    rates: dict[str, float],
    works: dict[str, Any],
    others: dict[str, Peer | str],
) -> None:
    """Print what was found."""
    subjects = {
        "fp32": f"LLM scoring, {len(users)} users x {CANDIDATES} candidates, history {HISTORY}, fp32",
        "bf16": f"LLM scoring, {len(users)} users x {CANDIDATES} candidates, history {HISTORY}, bf16",
        "known": "The same in fp32, all histories known from earlier requests",
        "retrieved": f"LLM scoring, {HISTORY} items retrieved for each candidate (no shared history), fp32",
    }
    outcomes: list[Outcome] = []
    for row, subject in subjects.items():
        beside = {PLAIN: rates[RETRIEVED if row == "retrieved" else PLAIN]}
        beside |= {name: rates.get(name, other) for name, other in others.items() if PEERS[name][2] == row}
        dtype, asked = torch.bfloat16 if row == "bf16" else torch.float32, retrieved if row == "retrieved" else users
        floor = None
        if row != "known":
            floor = sum(len(user.suffixes) for user in asked) / flops(SHAPES[options.shape], asked) * peak_flops(dtype)
        exact = works[RETRIEVED if row == "retrieved" else PLAIN]
        errors = {name: distance(works[name], exact) for name in (row, *beside) if name in works and name != PLAIN}
        said = ", ".join(f"{'Tandem' if name == row else name} {error:.1g}" for name, error in errors.items())
        spent = f"{options.threads} thread(s){', CPU seconds' if options.cpu else ''}"
        notes = f"{questions.data}, shape {options.shape}, {spent}; largest |dp| from plain fp32: {said}"
        outcomes.append(Outcome(subject, "candidates/s", rates[row], beside, GOALS[row], floor, notes))
    show(outcomes)


def distance(side: Side | Peer, exact: Side) -> float:
    """Return the largest distance from another side's probabilities, of the users that both scored."""
    both = [np.abs(p - exact.found[user]).max() for user, p in side.found.items() if user in exact.found]
    return float(max(both, default=np.nan))


if __name__ == "__main__":
    main()
