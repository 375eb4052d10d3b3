"""Scores prompts with another engine, in the virtual environment of that engine, started by benchmarks/llm_scoring.py.

python benchmarks/llm_peers.py ENGINE PRECISION THREADS FOLDER wall|cpu

FOLDER holds a transformers folder `model`, its weights again as `weights.pt`, and `prompts.npz`. After "ready", each line of stdin
is the first and the last but one number of users to score, and each line of stdout the seconds it took with the probabilities.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

User = tuple[np.ndarray, list[np.ndarray]]  # prefix, suffixes
Engine = Callable[[User], np.ndarray]  # -> logits of No and Yes, [C, 2]


def users(folder: Path) -> list[User]:
    found = np.load(folder / "prompts.npz")
    suffixes = np.split(found["suffixes"], found["suffix_ends"][:-1])
    starts = np.r_[0, found["user_ends"]]
    prefixes = np.split(found["prefixes"], found["prefix_ends"][:-1])
    return [(prefix, suffixes[start:stop]) for prefix, start, stop in zip(prefixes, starts, starts[1:], strict=False)]


def graph(folder: Path) -> Any:
    from llm_graph import SharedPrefixLlama

    config = json.loads((folder / "model" / "config.json").read_text())
    answers = json.loads((folder / "answers.json").read_text())
    return SharedPrefixLlama(torch.load(folder / "weights.pt", weights_only=True), config, answers).eval()


def padded(user: User) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    lengths = np.array([len(suffix) for suffix in user[1]])
    suffixes = np.zeros((len(lengths), lengths.max()), np.int64)
    suffixes[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(user[1])
    return user[0].astype(np.int64), suffixes, lengths - 1


def onnxruntime(folder: Path, _precision: str, threads: int, example: User) -> Engine:
    import onnxruntime as ort

    inputs = tuple(map(torch.from_numpy, padded(example)))
    names, path = ["prefix", "suffixes", "last"], str(folder / "graph.onnx")
    dynamic = tuple(dict.fromkeys(range(each.dim()), torch.export.Dim.DYNAMIC) for each in inputs)
    torch.onnx.export(graph(folder), inputs, path, input_names=names, dynamic_shapes=dynamic, dynamo=True, verbose=False)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda user: session.run(None, dict(zip(names, padded(user), strict=True)))[0]


def openvino(folder: Path, precision: str, threads: int, example: User) -> Engine:
    import openvino as ov

    inputs = tuple(map(torch.from_numpy, padded(example)))
    with torch.inference_mode():
        converted = ov.convert_model(graph(folder), example_input=inputs)
    hints = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = ov.Core().compile_model(converted, "CPU", hints)
    return lambda user: compiled(padded(user))[0]


def ctranslate2(folder: Path, precision: str, threads: int, _example: User) -> Engine:
    import ctranslate2 as ct

    ct.converters.TransformersConverter(str(folder / "model")).convert(str(folder / "ct2"), force=True)
    written = folder / "ct2" / "config.json"
    # It reads a name for every special token, and the tiny model has none for some.
    written.write_text(json.dumps({name: "<|end|>" if value is None else value for name, value in json.loads(written.read_text()).items()}))
    generator = ct.Generator(str(folder / "ct2"), compute_type=precision, intra_threads=threads, inter_threads=1)
    words = json.loads((folder / "ct2" / "vocabulary.json").read_text())
    answers = json.loads((folder / "answers.json").read_text())

    def score(user: User) -> np.ndarray:
        text = [[words[token] for token in suffix] for suffix in user[1]]
        # The state after the prefix is computed once and kept. Suffixes go in token by token from where the shortest ends; each such
        # token has logits too, the answer's are the last.
        found = generator.generate_batch(
            text,
            static_prompt=[words[token] for token in user[0]],
            cache_static_prompt=True,
            max_length=1,
            include_prompt_in_result=False,
            return_logits_vocab=True,
        )
        return np.stack([np.array(each.logits[0][-1])[answers] for each in found])

    return score


def probabilities(logits_C2: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(logits_C2[:, 0].astype(np.float64) - logits_C2[:, 1]))


def asked() -> Iterator[slice]:
    for line in sys.stdin:
        yield slice(*json.loads(line))


def main() -> None:
    name, precision, threads, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(threads)
    clock = time.process_time if sys.argv[5] == "cpu" else time.perf_counter
    known = users(folder)
    engines = {"onnxruntime": onnxruntime, "openvino": openvino, "ctranslate2": ctranslate2}
    score = engines[name](folder, precision, threads, known[0])
    score(known[0])
    print("ready", flush=True)
    for part in asked():
        started_s = clock()
        p = [probabilities(score(user)) for user in known[part]]
        took_s = clock() - started_s
        print(json.dumps([took_s, np.concatenate(p).tolist()]), flush=True)


if __name__ == "__main__":
    main()
