"""The report as one HTML file that needs nothing else: no network, no script."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from components.artifacts import as_plain
from components.report import tables
from components.report.style import COLOR_NAMES, LOOKS, inline
from components.storage import without_credentials

Metrics = Mapping[str, Any]


@dataclass(frozen=True)
class Plate:
    """Figures that are shown side by side under one caption."""

    caption: str
    label: str  # what the figures show, for who cannot see them
    svgs: tuple[Markup, ...]


@dataclass(frozen=True)
class Tile:
    """One number that the eye should meet first."""

    name: str
    value: str
    note: str


CAPTIONS = {
    "auc_by_share": (
        "AUC against LLM share",
        "AUC on test against the share of rows that the LLM answers. The routed points are policies fitted on validation, each at the "
        "share it spends on test; the star is the policy of this run, its bar the 95 % interval of the difference from the CRM. The second "
        "figure adds hindsight's oracle, which no router can reach.",
    ),
    "confidence_": (
        "metrics by confidence group",
        "Test rows in three equal groups by the CRM's confidence: the LLM is worth asking where its mark beats the CRM's.",
    ),
    "reliability_": (
        "reliability of both arms",
        "How often rows of a given probability are clicked, before and after calibration; on the dotted line a probability is "
        "what it says.",
    ),
    "training_": ("loss curves by training stage", "Losses of each training stage, on training batches and on validation."),
}


def render(metrics: Metrics, figures: Mapping[str, bytes], settings: Any) -> str:
    """Return the page; `metrics` as `metrics.json`, `figures` by name as SVG, `settings` the run's configuration."""
    # Every value is escaped; only the figures, whose texts matplotlib escapes, are inlined as they are.
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("page.html").render(
        metrics=metrics,
        colors={name: COLOR_NAMES[name] for name in LOOKS},
        tiles=_tiles(metrics),
        headline=tables.headline(metrics),
        plates={prefix.strip("_"): _plate(figures, prefix, metrics["policy"]["asks"]) for prefix in CAPTIONS},
        segments=_segments(metrics),
        shares=tables.shares(metrics),
        data=[table for table in (tables.data(metrics), tables.quarantine(metrics)) if table.rows],
        stages=tables.stages(metrics),
        allowed=f"{metrics['policy']['max_llm_share']:.0%}",
        asked=tables.percent(metrics["test"]["routed"]["llm_share"]),
        llm_answered=tables.percent(metrics["llm_answered"]),
        best_auc=tables.number(metrics["best_auc"]),
        settings=without_credentials(json.dumps(as_plain(settings), indent=2, ensure_ascii=False)),
    )


def _tiles(metrics: Metrics) -> list[Tile]:
    test = metrics["test"]
    routed = test["routed"]
    difference = routed["auc_minus_crm"]
    against = f"{tables.signed(difference['difference'])} against the CRM {tables.bracket(difference)}"
    against = against if routed["llm_share"] else "the CRM's answers as they are"
    allowed, requests = f"{metrics['policy']['max_llm_share']:.0%} allowed on validation", tables.percent(routed["request_share"])
    return [
        Tile("CRM", tables.number(test["crm"]["auc"]), "AUC, asked about everything"),
        Tile("LLM", tables.number(test["llm"]["auc"]), "AUC, asked about everything"),
        Tile("Routed", tables.number(routed["auc"]), f"AUC, {against}"),
        Tile("LLM share", tables.percent(routed["llm_share"]), f"of the rows ({allowed}); {requests} of the requests"),
    ]


def _plate(figures: Mapping[str, bytes], prefix: str, asks: bool) -> Plate:
    label, caption = CAPTIONS[prefix]
    if prefix == "reliability_" and not asks:
        caption += " This run's policy asks nothing; shown are the calibrations it would use at a share of 20%."
    shown = [svg for name, svg in figures.items() if name.startswith(prefix)]
    return Plate(caption, label, tuple(Markup(inline(svg, f"{prefix.strip('_')}{number}")) for number, svg in enumerate(shown)))


def _segments(metrics: Metrics) -> Sequence[tables.Table]:
    all_three = {"auc": "AUC", "logloss": "LogLoss", "accuracy": "Accuracy"}
    two = {"auc": "AUC", "logloss": "LogLoss"}
    wanted = (
        ("confidence", "By the CRM's confidence", "Three equal groups by the entropy of the CRM's probability.", all_three),
        (
            "asked",
            "Inside and outside what the policy routes",
            "Both arms on the same rows: over all rows, an AUC also falls where two scales of scores are mixed.",
            all_three,
        ),
        ("history", "By the user's history", "Earlier interactions of the user.", two),
        ("item_popularity", "By the item's popularity", "Interactions of the item in training.", two),
        ("user_popularity", "By what training knows of the user", "Interactions of the user in training.", two),
    )
    return [tables.segment(metrics, key, title, note, shown) for key, title, note, shown in wanted]
