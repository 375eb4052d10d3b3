"""How figures look: one palette for every figure (Okabe and Ito's, safe for the colour-blind), and how they become SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GRID = "#1f2933", "#d5dae1"
Size = tuple[float, float]  # inches


@dataclass(frozen=True)
class Look:
    """How one arm or router is drawn, the same everywhere; told apart by marker and dash as well as by colour."""

    name: str
    color: str
    marker: str
    dash: str

    def line(self) -> dict[str, Any]:
        """Return keywords of Axes.plot."""
        return {"label": self.name, "color": self.color, "marker": self.marker, "linestyle": self.dash}


LOOKS = {
    "crm": Look("CRM", "#0072b2", "o", "-"),
    "llm": Look("LLM", "#d55e00", "s", "--"),
    "routed": Look("routed", "#009e73", "D", "-"),
    "random": Look("random", "#6b7280", "v", ":"),
    "average": Look("average", "#e69f00", "P", "-."),
    "oracle": Look("oracle", "#cc79a7", "^", "--"),
}
COLOR_NAMES = {"ink": INK, "grid": GRID, **{name: look.color for name, look in LOOKS.items()}}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be selected, and takes the page's font
    "svg.hashsalt": "tandem",  # the same figures give the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 9,
}


def draw(size: Size, paint: Callable[[Figure], None]) -> bytes:
    """Return what `paint` draws as SVG with a transparent background and nothing that changes from run to run."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        paint(figure)
        file = io.BytesIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return file.getvalue()


def legend_below(axes: Axes, columns: int) -> None:
    """Put the legend under the axes, where it hides no point; nothing to explain gives none."""
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def inline(svg: bytes, name: str) -> str:
    """Make a figure part of a page: ids of its own, and colours that the page decides (CSS variables of COLOR_NAMES)."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = text.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    for color_name, color in COLOR_NAMES.items():
        text = text.replace(color, f"var(--{color_name})")
    return re.sub(r"<svg[^>]*>", _open_tag, text, count=1)


def _open_tag(found: re.Match[str]) -> str:
    box = re.search(r'viewBox="([\d. ]+)"', found.group())
    assert box is not None, "matplotlib writes a viewBox"
    width_pt = float(box.group(1).split()[2])
    return f'<svg viewBox="{box.group(1)}" style="max-width: {width_pt * 1.4:.0f}px" aria-hidden="true">'
