"""What MLflow is told through the environment, the only place where it looks for these."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
UPLOAD_TIMEOUT_S = 120
# A dead server must cost seconds (MLflow's defaults are 7 retries of 120 s), nothing is reported to third parties, and
# no URL is printed for each trial.
SETTINGS = {
    TIMEOUT: "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def prepare() -> None:
    """Set what the user has not set; to be called before mlflow is imported, which reads some of it then."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def patient_uploads() -> Iterator[None]:
    """Give each request minutes meanwhile: a server may need them to store a large file."""
    before = os.environ.get(TIMEOUT, "0")
    os.environ[TIMEOUT] = str(max(UPLOAD_TIMEOUT_S, int(before)))
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before
