"""The report's tables as text: what a person reads, formatted; the template only lays it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Metrics = Mapping[str, Any]
ARMS = {
    "crm": "CRM",
    "llm": "LLM",
    "routed": "Routed",
    "random": "Random",
    "average": "Average of both",
    "stacker": "Logistic stack of both",
    "oracle": "Oracle (hindsight)",
}
ROUTED = list(ARMS).index("routed")
ROUTERS = {
    "routed": "Best on validation",
    "entropy": "Entropy",
    "margin": "Margin",
    "gain": "Expected gain",
    "random": "Random",
    "oracle": "Oracle",
}
NONE = "–"
OWN_SHARES = {"crm": 0.0, "llm": 1.0}  # LLM shares of arms that nothing is chosen for


@dataclass(frozen=True)
class Cell:
    """One value of a table."""

    text: str
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table with one or two rows of heads; the first column of each row is its name."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()  # heads above the heads, with the columns they span
    strong_row: int = -1


def headline(metrics: Metrics) -> Table:
    """Return the arms and baselines with every metric."""
    head = ("", "LLM share", "AUC", "AUC − CRM", "UAUC", "UAUC − CRM", "LogLoss", "Accuracy", "ECE", "Requests")
    test, policy = metrics["test"], metrics["policy"]
    entries = [(name, {**metrics["controls"], **test}[key], OWN_SHARES.get(key)) for key, name in ARMS.items()]
    given = "the policy's share" if test["routed"]["llm_share"] else "a share of 20%, since the policy asks nothing"
    note = (
        "LLM share: rows answered with the LLM. Requests: share of requests (one user, one second) that touch it. "
        f"Random and oracle get {given}."
    )
    if policy["asks"] and test["routed"]["llm_share"] > policy["max_llm_share"]:
        entries.insert(ROUTED + 1, (f"Routed, {policy['max_llm_share']:.0%} at most", metrics["controls"]["capped"], None))
        note += " At most: the policy with its threshold raised until its budget holds on test too, which needs no label."
    rows = tuple(_headline_row(name, entry, test["crm"], share) for name, entry, share in entries)
    return Table("Results on test", note, head, rows, strong_row=ROUTED)


def _headline_row(name: str, entry: Metrics, crm: Metrics, own_share: float | None) -> tuple[Cell, ...]:
    ordered = (text for key in ("auc", "uauc") for text in (number(entry[key]), _against(entry, crm, key)))
    figures = [number(entry[key]) for key in ("logloss", "accuracy", "ece")]
    share, requests = (percent(entry.get(key, own_share)) for key in ("llm_share", "request_share"))
    return cells(name, share, *ordered, *figures, requests)


def _against(entry: Metrics, crm: Metrics, key: str) -> str:
    """Write the difference from the CRM; its interval where there is one and the LLM was asked."""
    if entry is crm or entry[key] is None or crm[key] is None:
        return NONE
    interval = entry.get(f"{key}_minus_crm")
    return f"{signed(entry[key] - crm[key])} {bracket(interval) if interval and entry.get('llm_share') else ''}".strip()


def shares(metrics: Metrics) -> Table:
    """Return every router at every share."""
    head = ("Share of test rows", "Router", "AUC", "AUC − CRM", "UAUC", "LogLoss", "LLM share", "By threshold")
    rows = tuple(_share_row(share, name, entry, routers) for share, routers in metrics["shares"].items() for name, entry in routers.items())
    note = (
        "All routers of one share answer alike, ask about equally many test rows, those of their highest estimates (which needs no label), "
        "and differ only in which. By threshold: what the threshold that spends this share of validation would have spent on test. "
        "Random is the mean of its draws, its interval that of the first draw. The oracle asks nothing that does not help. "
        "Entropy and margin order rows alike."
    )
    return Table("Every router at the same budgets", note, head, rows)


def _share_row(share: str, name: str, entry: Metrics, routers: Mapping[str, Metrics]) -> tuple[Cell, ...]:
    best = max((other["auc"] for key, other in routers.items() if key != "oracle" and other["auc"] is not None), default=None)
    auc = Cell(number(entry["auc"]), strong=name != "oracle" and best is not None and entry["auc"] == best)
    figures, asked = (
        (number(entry[key]) for key in ("uauc", "logloss")),
        (percent(entry.get(key)) for key in ("llm_share", "share_at_threshold")),
    )
    rest = cells(_difference(entry), *figures, *asked)
    return (*cells(percent(float(share)), ROUTERS[name]), auc, *rest)


def segment(metrics: Metrics, key: str, title: str, note: str, shown: Mapping[str, str]) -> Table:
    """Return one segment table: CRM, LLM and routed for each metric of `shown`; the best of the three is strong."""
    arms = ("crm", "llm", "routed")
    groups = (("", 3), *((name, len(arms)) for name in shown.values()), ("", 1))
    head = ("", "Rows", "Label rate", *(ARMS[arm] for _ in shown for arm in arms), "LLM share")
    rows = tuple(
        (
            *cells(item["name"], count(item["rows"]), percent(item["label_rate"])),
            *(cell for metric in shown for cell in _best([item[arm][metric] for arm in arms], smallest=metric == "logloss")),
            Cell(percent(item["llm_share"])),
        )
        for item in metrics["segments"][key]
    )
    return Table(title, note, head, rows, groups)


def data(metrics: Metrics) -> Table:
    """Return the rows of each split and how many of them are clicks."""
    rows = tuple(cells(split, count(rows), percent(metrics["label_rate"].get(split))) for split, rows in metrics["rows"].items())
    return Table("Samples", "", ("Split", "Rows", "Label rate"), rows)


def quarantine(metrics: Metrics) -> Table:
    """Return bad rows by reason."""
    rows = tuple(cells(reason, count(bad)) for reason, bad in metrics["quarantine"].items())
    return Table("Quarantine", "Rows that were found bad, kept aside and not used.", ("Table and reason", "Rows"), rows)


def stages(metrics: Metrics) -> Table:
    """Return how long each stage took."""
    rows = tuple(cells(name, duration(entry["seconds"]), _rate(entry)) for name, entry in metrics["stages"].items())
    return Table("Stages", "", ("Stage", "Time", "Rate"), rows)


def cells(*texts: str) -> tuple[Cell, ...]:
    """Turn texts into plain cells."""
    return tuple(Cell(text) for text in texts)


def number(value: float | None, digits: int = 4) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float | None) -> str:
    return NONE if value is None else f"{value:+.4f}".replace("-", "−")


def percent(value: float | None) -> str:
    return NONE if value is None else f"{value:.1%}"


def count(value: float | None) -> str:
    return NONE if value is None else f"{value:,.0f}"


def bracket(interval: Metrics) -> str:
    """Write a 95 % interval in brackets."""
    return f"[{signed(interval['low'])}, {signed(interval['high'])}]" if interval["low"] is not None else ""


def duration(seconds: float | None) -> str:
    """Write seconds as people say them."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _difference(entry: Metrics) -> str:
    interval = entry.get("auc_minus_crm")
    return NONE if interval is None else f"{signed(interval['difference'])} {bracket(interval)}"


def _rate(entry: Metrics) -> str:
    rate = entry.get("rate")
    return NONE if rate is None else f"{rate:,.{0 if rate >= 10 else 2}f} {entry.get('unit') or ''}".strip()


def _best(values: Sequence[float | None], smallest: bool) -> tuple[Cell, ...]:
    known = [value for value in values if value is not None]
    wanted = (min(known) if smallest else max(known)) if known else None
    return tuple(Cell(number(value), strong=value is not None and value == wanted) for value in values)
