"""Plots of a distilled set as SVG in the colours of the surrounding page."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.style
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Colours that matplotlib writes, and their replacements in the page.
_INK, _FAINT, _BAR = "#010203", "#040506", "#070809"
_PAGE_COLOURS = {_INK: "var(--ink)", _FAINT: "var(--line)", _BAR: "var(--accent)"}

# Above this, float32 log probabilities round to 0.
_BEST_SCORE = -1e-7
_BINS_PER_DECADE = 8
_LONGEST_TITLE = 20

_STYLE = {
    "svg.hashsalt": "pydream",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
}


def score_histogram(scores: npt.NDArray[np.floating]) -> str:
    """Draw the distribution of the realism scores of patches, as an SVG element.

    The axis is logarithmic in the distance from 0, the best possible score, because the scores of
    selected patches are close to it over several orders of magnitude.

    Parameters
    ----------
    scores
        (N,) log probabilities, N at least 1, none above 0.
    """
    distance = np.maximum(-scores.astype(np.float64), -_BEST_SCORE)
    lowest = int(np.floor(np.log10(distance.min())))
    highest = max(int(np.ceil(np.log10(distance.max()))), lowest + 1)
    edges = np.logspace(lowest, highest, (highest - lowest) * _BINS_PER_DECADE + 1)
    counts, _ = np.histogram(distance.clip(edges[0], edges[-1]), edges)
    # The user's matplotlibrc must not change the bytes of a report.
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.4, 2.3))
        axes = figure.add_axes((0.16, 0.22, 0.78, 0.74))  # explicit positions: half of the time
        axes.stairs(counts, edges, fill=True, color=_BAR)
        _label_axes(axes, lowest, highest)
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    return _for_page(stream.getvalue(), f"Histogram of the realism scores of {len(scores)} patches")


def history_curves(history: Sequence[Mapping[str, Any]], along: str = "iteration") -> str:
    """Draw loss and, if measured, accuracy against the iteration, as an SVG element.

    Parameters
    ----------
    history
        Entries with ``iteration``, ``loss`` (None before the first iteration) and optionally
        ``top1``, one share per student.
    along
        Name of the axis.
    """
    losses = [(entry["iteration"], entry["loss"]) for entry in history if entry["loss"] is not None]
    measured = [
        (entry["iteration"], 100 * np.mean(entry["top1"])) for entry in history if entry.get("top1")
    ]
    curves = [("loss of a step", losses)]
    if measured:
        curves.append(("students’ top-1, %", measured))
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.4, 1.9 * len(curves) + 0.4))
        for place, (name, points) in enumerate(curves):
            axes = figure.add_subplot(len(curves), 1, place + 1)
            at, values = zip(*points, strict=True)
            marker = "o" if len(at) < 30 else None
            axes.plot(at, values, color=_BAR, marker=marker, markersize=3, clip_on=False)
            axes.set_xlim(history[0]["iteration"], history[-1]["iteration"])
            axes.set_ylabel(name)
            axes.grid(axis="y", color=_FAINT, linewidth=0.5)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(along)
        figure.subplots_adjust(left=0.16, right=0.96, top=0.96, bottom=0.5 / figure.get_figheight())
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    return _for_page(stream.getvalue(), "Curves of the optimisation")


def feature_maps(maps: Mapping[str, Mapping[str, Sequence[Sequence[float]]]]) -> str:
    """Draw the features of the real images of some classes, the chosen ones marked, as SVG.

    Parameters
    ----------
    maps
        By class: x and y of the ``chosen`` images and of the ``others``.
    """
    with matplotlib.style.context(["default", _STYLE]):
        figure = Figure(figsize=(4.4, 2.2 * ((len(maps) + 1) // 2) + 0.1))
        for place, (name, points) in enumerate(maps.items(), 1):
            axes = figure.add_subplot((len(maps) + 1) // 2, 2, place)
            for kind, colour, size in (("others", _FAINT, 8), ("chosen", _BAR, 14)):
                x, y = np.array(points[kind]).reshape(-1, 2).T
                axes.scatter(x, y, s=size, color=colour, linewidths=0)
            shown = name if len(name) <= _LONGEST_TITLE else f"{name[:_LONGEST_TITLE]}…"
            axes.set_title(shown, parse_math=False)  # a name with dollar signs is no formula
            axes.set_xticks([])
            axes.set_yticks([])
        figure.subplots_adjust(0.03, 0.03, 0.97, 0.9, wspace=0.1, hspace=0.25)
        stream = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(stream, format="svg", metadata=nothing)
    return _for_page(stream.getvalue(), "Maps of the features of real images, chosen ones marked")


def _label_axes(axes: Axes, lowest: int, highest: int) -> None:
    axes.set_xscale("log")
    axes.set_xlim(10.0**highest, 10.0**lowest)
    step = 1 + (highest - lowest) // 7
    ticks = [10.0**exponent for exponent in range(lowest, highest + 1, step)]
    axes.set_xticks(ticks, [_tick_words(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("realism score (log p; better to the right)")
    axes.set_ylabel("patches")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.grid(axis="y", color=_FAINT, linewidth=0.5)
    axes.set_axisbelow(True)


def _tick_words(distance: float) -> str:
    """Format the score at this distance from 0."""
    if distance >= 0.001:
        return f"−{distance:g}"
    exponent = f"{np.log10(distance):.0f}"
    return "−10" + exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _for_page(svg: str, description: str) -> str:
    """Return only the element, without prolog and style sheet, in the colours of the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{description}" ', 1)
