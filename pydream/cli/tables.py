"""Output of commands: tables for people, JSON for scripts."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from pydream.formatting import byte_words, count_words
from pydream.progress import clock

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from pydream.demo import DemoResult
    from pydream.dream import Comparison
    from pydream.rded import Prediction
    from pydream.sets.run import MadeSet


def console() -> Console:
    """Return the console of standard output."""
    return Console(highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON; objects that JSON does not know become text."""
    print(jsonlib.dumps(value, indent=2, default=str))


def print_result(result: DataclassInstance, text: str, *, json: bool) -> None:
    """Print a result as JSON, or the text that says the same."""
    if json:
        print_json(dataclasses.asdict(result))
    else:
        console().print(text, soft_wrap=True)


def print_set(result: MadeSet, rows: Mapping[str, str], *, json: bool) -> None:
    """Print the set made by a method; `rows` hold the facts of this method alone."""
    manifest = result.manifest
    if json:
        print_json({"path": result.path, "manifest": manifest.as_json(), "seconds": result.seconds})
        return
    table = Table(show_header=False, box=None)
    classes, ipc = len(manifest.class_names), count_words(manifest.images_per_class)
    table.add_row("images", f"{classes} classes x {ipc}, {manifest.side} pixels a side")
    for name, value in rows.items():
        table.add_row(name, value)
    if manifest.skipped:
        table.add_row("skipped", f"{len(manifest.skipped)} images, listed in manifest.json")
    if manifest.enlarged:
        table.add_row("enlarged", f"{manifest.enlarged} images smaller than a patch")
    if result.seconds:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
        table.add_row("seconds", stages)
    out = console()
    out.print(table)
    out.print(f"set: {result.path}\npictures: {result.path / 'report.html'}", soft_wrap=True)


def print_prediction(prediction: Prediction, *, json: bool) -> None:
    """Print what a run will take."""
    if json:
        print_json(dataclasses.asdict(prediction))
        return
    whole = prediction.seconds["whole"]
    out = console()
    if not whole:
        out.print(f"nothing is left to do: {prediction.path} is finished", soft_wrap=True)
        return
    table = Table(box=None)
    table.add_column("stage")
    table.add_column("seconds", justify="right")
    table.add_column("share", justify="right")
    for name, seconds in prediction.seconds.items():
        table.add_row(name, f"{seconds:,.1f}", f"{seconds / whole:.0%}")
    out.print(table)
    least, most = (clock(seconds) for seconds in prediction.range)
    memory = prediction.memory
    words = f"{byte_words(memory['host'])} of memory"
    if "device" in memory:
        words += f" and {byte_words(memory['device'])} on the GPU"
    out.print(
        f"{prediction.scored:,} images to score, {prediction.measured:,} measured; "
        f"{prediction.images:,} distilled images in {prediction.classes:,} classes\n"
        f"the run: {clock(whole)} ({least} to {most}), {words}, "
        f"{byte_words(prediction.bytes)} in {prediction.path}",
        soft_wrap=True,
    )


def print_comparison(result: Comparison, seeds: int) -> None:
    """Print the accuracy of each method at each iteration."""
    table = Table(title=f"Top-1 on test images, mean of {seeds} runs")
    table.add_column("iteration", justify="right")
    for method in result.top1:
        table.add_column(method, justify="right")
    means = [result.mean(method) for method in result.top1]
    for at, *row in zip(result.iterations, *means, strict=True):
        table.add_row(str(at), *(f"{accuracy:.1%}" for accuracy in row))
    out = console()
    out.print(table)
    last = result.mean("random")[-1]
    out.print(f"final accuracy of random sampling: {last:.1%}")
    for method in [name for name in result.top1 if name != "random"]:
        at = result.first_reaching(method, last)
        out.print(
            f"{method} "
            + (f"reaches it in iteration {at}" if at is not None else "does not reach it")
            + f"; random sampling takes {result.iterations[-1]}"
        )
    out.print(f"figure: {result.path / 'comparison.png'}", soft_wrap=True)


def print_demo(result: DemoResult) -> None:
    """Print the accuracies of the demo."""
    table = Table(title="Digits: top-1 on test images")
    table.add_column("trained on")
    table.add_column("images", justify="right")
    table.add_column("top-1", justify="right")
    for name, images, top1 in (
        ("all training images (the observer)", result.train_images, result.observer_top1),
        ("distilled images", result.distilled_images, result.distilled_top1),
        ("random images", result.distilled_images, result.random_top1),
    ):
        table.add_row(name, str(images), f"{top1:.1%}")
    out = console()
    out.print(table)
    out.print(f"pictures: {result.contact_sheet}\nreport:   {result.report}", soft_wrap=True)
