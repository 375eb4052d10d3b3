"""The report's figures, each drawn from what `metrics.json` and the training log hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from components.report.style import INK, LOOKS, draw, legend_below

Points = Sequence[Mapping[str, Any]]
Metrics = Mapping[str, Any]
WIDE, SMALL, SQUARE = (5.3, 3.8), (3.7, 3.0), (3.7, 3.7)
METRIC_NAMES = {"auc": "AUC", "logloss": "LogLoss (nats)", "accuracy": "Accuracy"}
LOSS_NAMES = {
    "train_crm_loss": "CRM, train",
    "train_llm_loss": "LLM, train",
    "valid_crm_logloss": "CRM, valid",
    "valid_llm_logloss": "LLM, valid",
}


def figures(metrics: Metrics, training_log: Points) -> dict[str, bytes]:
    """Return every figure as SVG by its name; the training log may be empty."""
    stages = dict.fromkeys(str(line["stage"]) for line in training_log if "stage" in line)
    return {
        "auc_by_share": draw(WIDE, lambda figure: _auc_by_share(figure, metrics, whole=False)),
        "auc_by_share_oracle": draw(WIDE, lambda figure: _auc_by_share(figure, metrics, whole=True)),
        **{f"confidence_{name}": draw(SMALL, lambda figure, name=name: _confidence(figure, metrics, name)) for name in METRIC_NAMES},
        **{f"reliability_{arm}": draw(SQUARE, lambda figure, arm=arm: _reliability(figure, metrics, arm)) for arm in ("crm", "llm")},
        **{f"training_{stage}": draw(SMALL, lambda figure, stage=stage: _training(figure, training_log, stage)) for stage in stages},
    }


def _auc_by_share(figure: Figure, metrics: Metrics, whole: bool) -> None:
    """Draw AUC against LLM share; without the oracle the axis shows what could be chosen, larger."""
    axes, test = figure.subplots(), metrics["test"]
    for name in ("oracle", "random", "routed", "average") if whole else ("random", "routed", "average"):
        points = _known(metrics["curve"][name], "auc")
        axes.plot([point["llm_share"] for point in points], [point["auc"] for point in points], **LOOKS[name].line())
    if whole and test["llm"]["auc"] is not None:
        axes.plot([1.0], [test["llm"]["auc"]], color=LOOKS["llm"].color, marker=LOOKS["llm"].marker, linestyle="none", label="LLM alone")
    if test["crm"]["auc"] is not None:
        axes.axhline(test["crm"]["auc"], color=LOOKS["crm"].color, linewidth=1.2, label="CRM alone")
        _chosen(axes, test)
    axes.set(xlabel="LLM share of the test rows", ylabel="AUC on test", xlim=(-0.03, 1.03))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    if not whole:
        _focus(axes, metrics)
    legend_below(axes, 3)


def _chosen(axes: Axes, test: Metrics) -> None:
    """Mark the policy and the interval of its difference from the CRM."""
    routed, interval = test["routed"], test["routed"]["auc_minus_crm"]
    share, auc, color = routed["llm_share"], routed["auc"], LOOKS["routed"].color
    if interval["low"] is not None:
        axes.vlines(share, test["crm"]["auc"] + interval["low"], test["crm"]["auc"] + interval["high"], color=color, linewidth=1.2)
    star: dict[str, Any] = {"marker": "*", "markersize": 15, "markeredgecolor": INK, "linestyle": "none", "zorder": 5}
    axes.plot([share], [auc], color=color, label="chosen policy", **star)


def _focus(axes: Axes, metrics: Metrics) -> None:
    """Show the heights that a choice is made among; random routing's fall towards the LLM alone may leave them."""
    test = metrics["test"]
    heights = [point["auc"] for name in ("routed", "average") for point in _known(metrics["curve"][name], "auc")]
    heights += [point["auc"] for point in _known(metrics["curve"]["random"], "auc") if point["llm_share"] <= 0.35]
    interval = test["routed"]["auc_minus_crm"]
    if interval["low"] is not None:
        heights += [test["crm"]["auc"] + interval["low"], test["crm"]["auc"] + interval["high"]]
    if heights:
        room = max(0.08 * (max(heights) - min(heights)), 0.001)
        axes.set_ylim(min(heights) - room, max(heights) + room)


def _confidence(figure: Figure, metrics: Metrics, metric: str) -> None:
    """Draw a metric of both arms and of the policy in the thirds of the CRM's confidence."""
    axes, groups = figure.subplots(), metrics["segments"]["confidence"]
    for arm in ("routed", "crm", "llm"):
        heights = [np.nan if group[arm][metric] is None else group[arm][metric] for group in groups]
        # A policy that seldom asks lies on the CRM: it is drawn as a band below, so that both are seen.
        band: dict[str, Any] = {"linewidth": 6.0, "markersize": 10.0, "alpha": 0.4} if arm == "routed" else {}
        axes.plot(range(len(groups)), heights, **LOOKS[arm].line(), **band)
    axes.set_xticks(range(len(groups)), [group["name"].replace(" ", "\n") for group in groups])
    axes.set_title(METRIC_NAMES[metric])
    axes.margins(x=0.12, y=0.12)
    legend_below(axes, 3)


def _reliability(figure: Figure, metrics: Metrics, arm: str) -> None:
    """Draw the label rate of bins against their mean probability."""
    axes, found, look = figure.subplots(), metrics["reliability"][arm], LOOKS[arm]
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    names = {"before": "as scored", "after": "not calibrated" if found["calibration"] == "none" else f"after {found['calibration']}"}
    for part, dash, fill, width in (("before", ":", "none", 1.0), ("after", "-", look.color, 1.8)):
        p, rate = [point["p"] for point in found[part]], [point["label_rate"] for point in found[part]]
        axes.plot(p, rate, color=look.color, marker=look.marker, linestyle=dash, markerfacecolor=fill, linewidth=width, label=names[part])
    axes.set(xlabel="mean probability", ylabel="label rate", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(look.name)
    axes.set_aspect("equal")
    legend_below(axes, 2)


def _training(figure: Figure, training_log: Points, stage: str) -> None:
    """Draw a stage's losses; alignment's, of another scale, below them."""
    lines = [line for line in training_log if line.get("stage") == stage]
    aligned = any(line.get("train_alignment_loss") for line in lines)
    panels: Iterable[Axes] = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1)) if aligned else [figure.subplots()]
    axes, *below = panels
    for key, name in LOSS_NAMES.items():
        look, train = LOOKS["crm" if "crm" in key else "llm"], key.startswith("train")
        as_train, as_valid = {"linewidth": 1.0, "alpha": 0.75}, {"linestyle": "--", "marker": look.marker, "linewidth": 1.6}
        _series(axes, lines, key, {"color": look.color, "label": name, **(as_train if train else as_valid)})
    for panel in below:
        _series(panel, lines, "train_alignment_loss", {"color": INK, "linewidth": 1.0})
        panel.set_ylabel("alignment")
    last = below[0] if below else axes
    last.set_xlabel("step")
    last.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_ylabel("loss (nats)")
    axes.set_title(stage)
    legend_below(axes, 2)


def _series(axes: Axes, lines: Points, key: str, look: dict[str, Any]) -> None:
    points = _known([line for line in lines if "step" in line], key)
    if points:
        axes.plot([point["step"] for point in points], [point[key] for point in points], **look)


def _known(points: Points, key: str) -> Points:
    return [point for point in points if point.get(key) is not None and np.isfinite(point[key])]
