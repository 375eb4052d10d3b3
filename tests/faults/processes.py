"""The processes of a run: found by a mark in their environment, named by what they do."""

from __future__ import annotations

import contextlib

import psutil

MARK = "TANDEM_CHAOS"  # in the environment of everything that a run started, and of nothing else
# Process titles would be written over the environment that the mark stands in.
TITLES = {"SPT_NOENV": "1"}
KINDS = {  # what is in a command line -> what the table calls it
    "full.py": "driver",
    "gcs_server": "Ray's GCS",
    "raylet/raylet": "raylet",
    "ray::RayTrainWorker": "training worker",
    "ray::TrainController": "training controller",
    "ray::Board": "progress board",
    "ray::MapWorker": "Ray Data actor",
    "ray::IDLE": "idle Ray worker",
    "ray::": "other Ray task or actor",
}


def marked(mark: str) -> list[psutil.Process]:
    """Return the processes whose environment holds the mark, by their ids."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def kind_of(process: psutil.Process) -> str | None:
    """Return what a process is, None for one that has ended."""
    with contextlib.suppress(psutil.Error):
        if process.status() != psutil.STATUS_ZOMBIE and (line := " ".join(process.cmdline())):
            return next((kind for sign, kind in KINDS.items() if sign in line), "Ray's helper")
    return None
