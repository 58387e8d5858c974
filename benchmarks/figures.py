"""Figures of the records: how many times as long others take, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

ACCENT, FAINT, INK = "#2f6fd0", "#9a9aa0", "#1d1d1f"
_ROW = 0.3  # inches
_COLOURS = ("#2f6fd0", "#d0562f", "#2f9e62", "#8a4fd0", "#c79a1b", "#1b9ec7", "#c71b78")


def draw_ratios(rows: Sequence[dict[str, Any]], file: Path, digest: str) -> None:
    """Draw a bar to the fastest other of every case, and a dot for each of the rest.

    Parameters
    ----------
    rows
        ``machine``, ``label`` and ``times``: by peer, how many times as long as pydream it takes.
    file
        The SVG to write.
    digest
        Of what is drawn; kept in the file.
    """
    rows = [row for row in rows if row["times"]]
    of_machines = _by_machine(rows)
    heights = [1.1 + _ROW * len(own) for own in of_machines.values()]
    figure = Figure(figsize=(9.5, sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), squeeze=False, height_ratios=heights, sharex=True)
    for axes, (machine, own) in zip(panels[:, 0], of_machines.items(), strict=True):
        _draw_bars(axes, own)
        axes.set_title(machine, fontsize=9)
    label = "times as long as pydream\nbars, numbers: the fastest other; dots: the rest"
    panels[-1, 0].set_xlabel(label)
    _save(figure, file, digest)


def _draw_bars(axes: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for place, row in enumerate(reversed(rows)):
        times = sorted(row["times"].values())
        colour = ACCENT if times[0] >= 1 else "#d0562f"
        axes.barh(place, times[0] - 1, left=1, height=0.62, color=colour)
        axes.scatter(times[1:], [place] * (len(times) - 1), s=14, color=FAINT, zorder=3)
        axes.annotate(
            f"{times[0]:.1f}", (1.01, place), xycoords=("axes fraction", "data"),
            va="center", fontsize=8, color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row["label"] for row in reversed(rows)], fontsize=8)
    axes.set_xscale("log")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.axvline(1, color=INK, linewidth=0.8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(axis="x", which="both", color="#e6e6ea", linewidth=0.6)
    axes.set_axisbelow(True)


def draw_roofline(points: Sequence[dict[str, Any]], file: Path, digest: str) -> None:
    """Draw what each op attains beside what the machine could (Williams et al., 2009).

    Parameters
    ----------
    points
        ``machine``, ``op``, ``limits``, ``seconds``, ``nbytes``, ``operations`` of every case.
    file, digest
        As of `draw_ratios`.
    """
    of_machines = _by_machine(points)
    figure = Figure(figsize=(7.5, 4.8 * len(of_machines)), layout="constrained")
    panels = figure.subplots(len(of_machines), squeeze=False)
    for axes, (machine, own) in zip(panels[:, 0], of_machines.items(), strict=True):
        names = list(dict.fromkeys(point["op"] for point in own))
        for colour, name in zip(_COLOURS, names, strict=False):
            of_op = [point for point in own if point["op"] == name]
            axes.scatter(
                [point["operations"] / point["nbytes"] for point in of_op],
                [point["operations"] / point["seconds"] / 1e9 for point in of_op],
                s=18, color=colour, label=name, zorder=3,
            )  # fmt: skip
        _draw_roofs(axes, own)
        axes.set(xscale="log", yscale="log", title=machine)
        axes.set_xlabel("operations for each byte of inputs and outputs")
        axes.set_ylabel("operations, 10⁹ a second")
        axes.grid(which="both", color="#e6e6ea", linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
    _save(figure, file, digest)


def _draw_roofs(axes: Axes, points: Sequence[dict[str, Any]]) -> None:
    """Draw what the machine can do at most: a roof for each type of numbers that it multiplies."""
    roofs: dict[str, dict[str, Any]] = {}
    for point in points:
        roofs.setdefault(point["limits"]["dtype"], point["limits"])
    intensities = [point["operations"] / point["nbytes"] for point in points]
    edges = [roof["matrix_operations"] / roof["copy_bytes"] for roof in roofs.values()]
    least, most = min(intensities) / 2, 2 * max(*intensities, *edges)
    highest = max(roof["matrix_operations"] for roof in roofs.values())
    for roof, edge in zip(roofs.values(), edges, strict=True):
        copy, product = roof["copy_bytes"] / 1e9, roof["matrix_operations"] / 1e9
        axes.plot([least, edge, most], [least * copy, product, product], color=INK, linewidth=1.2)
        if roofs.keys() - {roof["dtype"]}:
            # Below their roof but for the highest: two types may be equally fast.
            side = "bottom" if roof["matrix_operations"] == highest else "top"
            axes.annotate(
                roof["dtype"], (most, product), ha="right", va=side, fontsize=8, color=INK
            )


def draw_curves(curves: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw times, and peaks of memory where they were measured, against size; both axes log.

    Parameters
    ----------
    curves
        ``title``, ``x`` and ``y`` in words, ``at``, ``lines`` by name, ``peak_mib`` or not.
    file
        The SVG to write.
    """
    columns = 3
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(11, 2.9 * rows), layout="constrained")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, curve in zip(all_axes, curves, strict=False):
        for colour, (name, values) in zip(_COLOURS, curve["lines"].items(), strict=False):
            axes.plot(curve["at"], values, "o-", markersize=3.5, color=colour, label=name)
        axes.set_title(curve["title"], fontsize=9)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(curve["at"], [f"{at:g}" for at in curve["at"]])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_minor_locator(NullLocator())
        axes.set_xlabel(curve["x"], fontsize=8)
        axes.set_ylabel(curve["y"], fontsize=8)
        axes.grid(color="#e6e6ea", linewidth=0.6)
        axes.tick_params(labelsize=7)
        if "peak_mib" in curve:
            memory = axes.twinx()
            memory.plot(curve["at"], curve["peak_mib"], "s--", markersize=3.5, color=FAINT)
            memory.set_ylim(0, 1.25 * max(curve["peak_mib"]))
            memory.set_ylabel("peak memory, MiB (dashed)", fontsize=8, color=FAINT)
            memory.tick_params(labelsize=7)
        elif len(curve["lines"]) > 1:
            axes.legend(fontsize=7, frameon=False)
    for axes in all_axes[len(curves) :]:
        axes.set_visible(False)
    _save(figure, file, "scaling")


def _by_machine(items: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        found.setdefault(item["machine"], []).append(item)
    return found


def _save(figure: Figure, file: Path, digest: str) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "pydream", "svg.fonttype": "none"}):
        figure.savefig(file, metadata={"Date": None, "Description": digest})
