"""What the page says of a degraded answer; read without a browser."""

from __future__ import annotations

import re

from serving.endpoints import PAGE
from serving.history_reader import AWAY
from serving.llm_client import PLAIN
from tests.end_to_end.command import ROOT


def test_every_cause_of_a_degraded_answer_has_words() -> None:
    sources = "".join(file.read_text() for file in (ROOT / "serving").glob("*.py"))
    kinds = set(re.findall(r'UnansweredError\("(\w+)"', sources))
    assert {"timeout", "other_version", "invalid_output", *PLAIN} <= kinds
    causes = {kind if kind in PLAIN else f"llm_{kind}" for kind in kinds} | {f"crm_{kind}" for kind in kinds} | {AWAY}
    (said,) = re.findall(r"const CAUSES = \{\n(.*?)\n\};", PAGE.read_text(), re.DOTALL)
    assert causes <= set(re.findall(r"^  (\w+): ", said, re.MULTILINE))
