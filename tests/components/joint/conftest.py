from pathlib import Path

import pytest

from tests.components.joint import prepared


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny prepared data set."""
    folder = tmp_path_factory.mktemp("prepared")
    prepared.make(folder)
    return folder
