"""Where runs are recorded and under which names."""

from __future__ import annotations

import re
from dataclasses import dataclass

from components.errors import ConfigError
from components.storage import without_credentials

MODEL_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
ALIAS = r"[A-Za-z0-9_-]{1,128}"


class Tracking:
    """Recording of runs, figures and models in MLflow."""

    @dataclass(frozen=True)
    class Config:
        """Where runs are recorded and under which names."""

        uri: str | None = None
        """Any MLflow tracking URI; default: MLFLOW_TRACKING_URI of the environment, else a SQLite store beside a local output folder, or
        ~/tandem-runs/mlflow.db."""
        experiment: str = "tandem"
        """The experiment that the runs appear in."""
        registered_model: str = "tandem"
        """The registered model that finished ensembles become versions of."""
        alias: str = "champion"
        """The alias that moves to each new version; serving asks for it."""

        def __post_init__(self) -> None:
            if self.uri is not None and not re.match(r"(?!file:)[\w+.-]+:(?!.*:memory:)|databricks", self.uri):
                raise ConfigError(
                    "tracking.uri: expected a server (http://...) or a database (sqlite:///...), no plain folder; "
                    f"got {without_credentials(self.uri)!r}"
                )
            if not 0 < len(self.experiment) <= 250 or not self.experiment.isprintable():
                raise ConfigError(f"tracking.experiment: expected 1 to 250 printable characters; got {self.experiment!r}")
            if not re.fullmatch(MODEL_NAME, self.registered_model):
                raise ConfigError(
                    f"tracking.registered_model: expected 1 to 128 letters, digits, '.', '_', '-'; got {self.registered_model!r}"
                )
            if not re.fullmatch(ALIAS, self.alias) or re.fullmatch(r"(?i)latest|v\d+", self.alias):
                raise ConfigError(
                    f"tracking.alias: expected 1 to 128 letters, digits, '_', '-', not 'latest' or like 'v1'; got {self.alias!r}"
                )
