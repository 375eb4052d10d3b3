"""Nothing that is read from a disk or the network is run: no pickles but torch's under guard, no code that comes with a model."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from components.llm.config import TINY
from pipelines.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("components", "pipelines", "serving", "tune", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
RUNS_DATA = re.compile(
    r"(pickle|cloudpickle|dill|marshal|joblib)\.\w*loads?|shelve\.open|.*\.(read_pickle|Unpickler|load_model|unsafe_load|full_load)"
    r"|yaml\.load|torch\.(hub|jit)\.load|eval|exec|os\.(system|popen)"
)
ALLOWED = {
    ("pipelines/train.py", "pickle.loads"),  # a job from the driver to its workers, through Ray's own calls, which are pickles themselves
    ("benchmarks/serving_yardsticks.py", "mlflow.pyfunc.load_model"),  # of what it packed itself, to be measured against
}


def faults(source: str, file: str = "") -> list[str]:
    """Return what a file does that could run a stranger's code."""
    return [f"{file}:{node.lineno}: {fault}" for node in ast.walk(ast.parse(source)) for fault in _of(node, file)]


def _of(node: ast.AST, file: str) -> list[str]:
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return ["trust_remote_code" for key, value in pairs if _is(key, "trust_remote_code") and not _is(value, False)]
    if not isinstance(node, ast.Call):
        return []
    name, given = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
    checks = {
        name: RUNS_DATA.fullmatch(name) is not None and (file, name) not in ALLOWED,
        "weights_only": name == "torch.load" and not _is(given.get("weights_only"), True),
        "allow_pickle": "allow_pickle" in given and not _is(given["allow_pickle"], False),
        "trust_remote_code": "trust_remote_code" in given and not _is(given["trust_remote_code"], False),
        "shell": "shell" in given and not _is(given["shell"], False),
        "unpinned": name.endswith(".from_pretrained") and not _is_pinned(given),
    }
    return [fault for fault, found in checks.items() if found]


def _is(node: ast.AST | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and (type(node.value), node.value) == (type(value), value)


def _is_pinned(given: dict[str | None, ast.expr]) -> bool:
    """Tell whether a model comes from this machine, or from where `_source` says: pinned, without its code."""
    return _is(given.get("local_files_only"), True) or ast.unparse(given.get(None, ast.Constant(None))).startswith("_source(")


def test_no_source_file_runs_what_it_reads() -> None:
    assert len(SOURCES) > 100
    assert [fault for path in SOURCES for fault in faults(path.read_text(), str(path.relative_to(ROOT)))] == []


@pytest.mark.parametrize(
    "line",
    [
        "pickle.load(file)",
        "pickle.loads(content)",
        "cloudpickle.loads(content)",
        "joblib.load(path)",
        "pd.read_pickle(path)",
        "pickle.Unpickler(file)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "mlflow.pyfunc.load_model(uri)",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=True)",
        "AutoConfig.from_pretrained(path)",
        "{'trust_remote_code': config.trusted}",
    ],
)
def test_the_check_sees_what_would(line: str) -> None:
    assert len(faults(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "yaml.safe_load(text)",
        "re.compile(text)",
        "json.loads(text)",
        "AutoConfig.from_pretrained(path, **_source(config))",
    ],
)
def test_the_check_passes_over_what_would_not(line: str) -> None:
    assert faults(line) == []


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_names_the_commit_of_a_model_that_is_downloaded(recipe: str) -> None:
    llm = RECIPES[recipe]().llm
    assert llm.path == TINY or re.fullmatch(r"[0-9a-f]{40}", llm.revision)
