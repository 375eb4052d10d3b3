"""What makes a checkpoint whole: beside each worker's files a seal with their sizes and hashes, so that none is resumed from in part."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components import storage
from components.errors import ArtifactError
from components.inventory import inventory, join, wrong_content, wrong_size
from components.joint.plan import Position

NAME = re.compile(r"checkpoint_\d.*")  # Ray Train's names hold the time, but that of whichever node wrote it: not the age
POSITION = "position.json"
BEFORE_ALL = (-1, 0, 0, "")
SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray Train's own list of a run's checkpoints, written over in place


def seal(folder: Path, rank: int) -> None:
    """Write the sizes and hashes of all files that a worker put into its own part of a checkpoint; the last thing it does there."""
    (folder / _seal_name(rank)).write_text(json.dumps(inventory(str(folder))))


def flaw(uri: str, workers: int) -> str | None:
    """Return what is wrong with a checkpoint, or None when every worker's seal is there and every sealed file as it was."""
    for rank in range(workers):
        try:
            files: dict[str, dict[str, Any]] = json.loads(_read(join(uri, _seal_name(rank))))
        except FileNotFoundError:
            return f"{join(uri, _seal_name(rank))} is missing"
        except ValueError:
            return f"{join(uri, _seal_name(rank))} is damaged: expected JSON"
        if found := wrong_size(uri, files) or wrong_content(uri, files):
            return found
    return None


def require_whole(folder: Path, workers: int) -> None:
    """Raise ArtifactError where a checkpoint that a worker is about to read is not what was written."""
    if found := flaw(str(folder), workers):
        raise ArtifactError(f"checkpoint not used: {found}")


def newest_whole(run_uri: str, workers: int, warn: Callable[[str], None]) -> str | None:
    """Return the newest whole checkpoint below the folder of a run that was broken off, and remove everything else there.

    What else is there - older checkpoints, torn ones, the broken run's own bookkeeping - could only mislead the next attempt;
    bookkeeping that is damaged is kept under another name, to be looked at.
    """
    fs, folder = storage.filesystem(run_uri)
    if not fs.exists(folder):
        return None
    aside = _set_aside(run_uri, warn)
    names = _names(run_uri)
    whole: str | None = None
    for name in sorted(filter(NAME.fullmatch, names), key=lambda name: _place(join(run_uri, name)), reverse=True):
        found = flaw(join(run_uri, name), workers)
        if found is None:
            whole = name
            break
        warn(f"checkpoint not used: {found}")
    for name in names:
        if name not in (whole, aside):
            fs.rm(join(folder, name), recursive=True)
    return whole and join(run_uri, whole)


def remove_orphans(run_uri: str, latest: str | None) -> None:
    """Remove checkpoints from behind the latest that Ray Train knows: workers were lost before they were all of them told of.

    `latest` is the name of a checkpoint below the run's folder, None where the run has none.
    """
    fs, folder = storage.filesystem(run_uri)
    reached = _place(join(run_uri, latest)) if latest else BEFORE_ALL
    if latest and reached == BEFORE_ALL:  # it can't be gone on with: the next attempt may want one of the others
        return
    for name in filter(NAME.fullmatch, _names(run_uri)):
        place = _place(join(run_uri, name))
        if name != latest and (place > reached or place == BEFORE_ALL):
            fs.rm(join(folder, name), recursive=True)


class Leftover:
    """The checkpoint that a broken run left below the folder of the run: Ray Train, which keeps two of its own, never removes it."""

    def __init__(self, run_uri: str, name: str | None, written: int = 0) -> None:
        """`written` counts the checkpoints of this run that Ray Train knows of; without a name nothing was left."""
        self._run_uri, self._name, self._written = run_uri, name, written

    def after_checkpoint(self) -> None:
        """Remove it once a second checkpoint is written: only then is every worker's part of the first one known to be there."""
        self._written += 1
        fs, folder = storage.filesystem(self._run_uri)
        if self._name and self._written >= 2:
            if fs.exists(join(folder, self._name)):
                fs.rm(join(folder, self._name), recursive=True)
            self._name = None


def _set_aside(run_uri: str, warn: Callable[[str], None]) -> str:
    """Rename Ray Train's list of checkpoints if it can't be read: Ray would not start with it. Return the name that it then has."""
    corrupt = f"{SNAPSHOT}.corrupt"
    try:
        json.loads(_read(join(run_uri, SNAPSHOT)))
    except FileNotFoundError:
        pass
    except ValueError:
        fs, folder = storage.filesystem(run_uri)
        warn(f"{join(run_uri, SNAPSHOT)} is damaged: expected JSON; it is kept as {corrupt}")
        fs.mv(join(folder, SNAPSHOT), join(folder, corrupt))
    return corrupt


def _names(run_uri: str) -> list[str]:
    """Return what is in the folder of a run."""
    fs, folder = storage.filesystem(run_uri)
    return [Path(path).name for path in fs.ls(folder, detail=False)] if fs.exists(folder) else []


def _place(uri: str) -> tuple[int, int, int, str]:
    """Return where in the run a checkpoint was written, to be compared; BEFORE_ALL where it does not say."""
    try:
        position = Position.from_json(_read(join(uri, POSITION)).decode())
    except (FileNotFoundError, ValueError, TypeError, KeyError, AttributeError):  # torn, or of a worker that was lost
        return BEFORE_ALL
    # After an epoch's last step one checkpoint may be of that step, another of the validation that follows it.
    return position.stage, position.step, position.epoch, Path(uri).name


def _read(uri: str) -> bytes:
    fs, path = storage.filesystem(uri)
    return fs.cat_file(path)  # pyright: ignore[reportReturnType]


def _seal_name(rank: int) -> str:
    return f"seal-{rank}.json"
