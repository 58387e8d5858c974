"""The command line: parses into the same dataclasses as the API and calls the same functions."""

from __future__ import annotations

import dataclasses
import json as jsonlib
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from pydream import dream
from pydream.data import open_source
from pydream.data.imported import open_distilled
from pydream.demo import DemoConfig, run_demo
from pydream.doctor import diagnose, render_diagnosis
from pydream.dream import CompareConfig, DreamConfig, compare
from pydream.errors import PydreamError
from pydream.evaluate import (
    EvaluateConfig,
    ExportConfig,
    InspectConfig,
    RelabelConfig,
    evaluate_set,
    export_set,
    relabel,
    result_table,
)
from pydream.evaluate.measures import measure_set
from pydream.evaluate.opening import open_observer
from pydream.models import ObserverConfig, train_observer
from pydream.profiling import comparison_table, profile, profile_table, read_profile
from pydream.rded import RdedConfig, RdedResult, distill
from pydream.report import (
    image_origin,
    inspect_set,
    render_inspection,
    render_origin,
    render_report,
)
from pydream.words import byte_words

Json = Annotated[bool, tyro.conf.arg(help="Print the result as JSON, for machines.")]
Whole = tyro.conf.arg(name="")

app = tyro.extras.SubcommandApp()


def _console() -> Console:
    return Console(highlight=False)


def _print_json(value: Any) -> None:
    print(jsonlib.dumps(value, indent=2, default=str))


def _print_set(
    result: RdedResult | dream.DreamResult, rows: Mapping[str, str], *, json: bool
) -> None:
    """Print what a method has made; `rows` is what it alone has to say."""
    manifest = result.manifest
    if json:
        _print_json({"path": result.path, "manifest": manifest, "seconds": result.seconds})
        return
    table = Table(show_header=False, box=None)
    classes, ipc = len(manifest["class_names"]), manifest["images_per_class"]
    table.add_row("images", f"{classes} classes x {ipc}, {manifest['side']} pixels a side")
    for name, value in rows.items():
        table.add_row(name, value)
    if manifest["skipped"]:
        table.add_row("skipped", f"{len(manifest['skipped'])} images, listed in manifest.json")
    if result.seconds:
        stages = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
        table.add_row("seconds", stages)
    console = _console()
    console.print(table)
    console.print(f"set: {result.path}\npictures: {result.path / 'report.html'}", soft_wrap=True)


@app.command(name="rded")
def rded_command(config: Annotated[RdedConfig, Whole], *, json: Json = False) -> None:
    """Distil labelled images by RDED: the most realistic patches of real images, tiled."""
    result = distill(config)
    manifest = result.manifest
    observer = manifest["observer"]
    rows = {
        "observer": f"{observer['arch']}, right on {observer['top1']:.1%} of "
        f"{observer['images']} images ({observer['held_out']})"
    }
    _print_set(result, rows, json=json)


@app.command(name="dream")
def dream_command(config: Annotated[DreamConfig, Whole], *, json: Json = False) -> None:
    """Distil labelled images by DREAM+: images optimised to match representative real ones."""
    result = dream.distill(config)
    manifest = result.manifest
    settings, history = manifest["config"], manifest["history"]
    rows = {
        "matched": f"{settings['match']}, {settings['metric']}, {settings['arch']}, "
        f"{settings['sampler']} real images, recipe {settings['recipe']}",
        "loss": f"{history[1]['loss']:.4g} in the first iteration, "
        f"{history[-1]['loss']:.4g} in the last of {len(history) - 1}",
    }
    if history[-1].get("top1"):
        rows["students"] = f"{fmean(history[-1]['top1']):.1%} on real test images"
    _print_set(result, rows, json=json)


@app.command(name="dream-compare")
def dream_compare_command(config: Annotated[CompareConfig, Whole], *, json: Json = False) -> None:
    """Compare random sampling, DREAM and DREAM+: accuracy of students against iteration."""
    result = compare(config)
    if json:
        _print_json(dataclasses.asdict(result))
        return
    table = Table(title=f"Top-1 on test images, mean of {config.seeds} runs")
    table.add_column("iteration", justify="right")
    for method in result.top1:
        table.add_column(method, justify="right")
    means = [result.mean(method) for method in result.top1]
    for at, *row in zip(result.iterations, *means, strict=True):
        table.add_row(str(at), *(f"{each:.1%}" for each in row))
    console = _console()
    console.print(table)
    last = result.mean("random")[-1]
    for method in ("DREAM", "DREAM+"):
        at = result.first_reaching(method, last)
        console.print(
            f"{method} is at the last accuracy of random sampling, {last:.1%}, "
            + (f"in iteration {at}" if at is not None else "in none of these iterations")
            + f"; random sampling in {result.iterations[-1]}"
        )
    console.print(f"figure: {result.path / 'comparison.png'}", soft_wrap=True)


@app.command(name="observer")
def observer_command(config: Annotated[ObserverConfig, Whole], *, json: Json = False) -> None:
    """Train an observer: a classifier of the images that will be distilled."""
    result = train_observer(config)
    if json:
        _print_json(dataclasses.asdict(result))
        return
    _console().print(
        f"{result.path}: {result.arch}, top-1 {result.top1:.2%} on {result.images} images "
        f"({result.held_out}), {result.seconds:.0f} s",
        soft_wrap=True,
    )


@app.command(name="evaluate")
def evaluate_command(config: Annotated[EvaluateConfig, Whole], *, json: Json = False) -> None:
    """Train students on a distilled set and report their accuracy on real test images."""
    result = evaluate_set(config)
    if json:
        _print_json(result.as_dict())
        return
    _console().print(result_table(result))
    figure = result.path.with_suffix(".png")
    _console().print(f"results: {result.path}\nfigure:  {figure}", soft_wrap=True)


@app.command(name="relabel")
def relabel_command(config: Annotated[RelabelConfig, Whole], *, json: Json = False) -> None:
    """Store an observer's labels of a distilled set, so that students train without it."""
    result = relabel(config)
    if json:
        _print_json(dataclasses.asdict(result))
        return
    _console().print(
        f"labels of {result.epochs} epochs: {byte_words(result.labels_bytes)}; images: "
        f"{byte_words(result.images_bytes)}\nlabels: {result.path}",
        soft_wrap=True,
    )


@app.command(name="export")
def export_command(config: Annotated[ExportConfig, Whole], *, json: Json = False) -> None:
    """Write a distilled set as other tools read it."""
    result = export_set(config)
    if json:
        _print_json(dataclasses.asdict(result))
        return
    _console().print(
        f"{result.path}: {result.images} images for {result.to}, {byte_words(result.bytes)}",
        soft_wrap=True,
    )


@app.command(name="inspect")
def inspect_command(config: Annotated[InspectConfig, Whole], *, json: Json = False) -> None:
    """Describe a distilled set, check its files, and measure it without training."""
    real = None if config.source is None else open_source(config.source)
    distilled = open_distilled(
        config.set,
        class_names=None if real is None else real.class_names,
        mean=config.image_mean,
        std=config.image_std,
    )
    if config.image is not None:
        origin = image_origin(distilled, config.image)
        if json:
            _print_json(origin)
        else:
            _console().print(render_origin(origin))
        return
    if config.report is not None and config.report.exists():
        raise PydreamError(f"{config.report} exists; give --report the name of a new file")
    network = None
    if config.observer is not None:
        network = open_observer(
            config.observer,
            distilled,
            arch=config.observer_arch,
            precision="float32",
            device=config.device,
        )
    measures = measure_set(distilled, network, real, most_real=config.most_real)
    if config.report is not None:
        _write_new(config.report, render_report(distilled, measures))
    facts = inspect_set(distilled, measures)
    if json:
        _print_json(facts)
    else:
        _console().print(render_inspection(facts, per_class=config.per_class))


def _write_new(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise PydreamError(
            f"{path} cannot be written: {error.strerror}; give the name of a new file"
        ) from error


@app.command(name="profile")
def profile_command(
    method: Annotated[RdedConfig, tyro.conf.subcommand("rded")]
    | Annotated[dream.DreamConfig, tyro.conf.subcommand("dream")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | None = None,
    *,
    compare: tuple[Path, Path] | None = None,
    save: Path | None = None,
    json: Json = False,
) -> None:
    """Run a method whole and say where its time goes; or compare two such profiles.

    Parameters
    ----------
    method
        What to run, with the settings of that command. What it makes is dropped, unless --out is
        given.
    compare
        Show these two saved profiles of one method side by side.
    save
        Name of the file to write; by default profile-METHOD-N.json. A Chrome trace for
        ui.perfetto.dev lies beside it.
    json
        Print the profile as JSON, for machines.
    """
    console = _console()
    if compare is not None:
        if method is not None or save is not None or json:
            raise PydreamError("--compare A B goes alone")
        one, other = (read_profile(each) for each in compare)
        names = str(compare[0]), str(compare[1])
        console.print(comparison_table(one, other, names=names))
        return
    if method is None:
        raise PydreamError("name what to profile: rded, dream or evaluate; or give --compare A B")
    result = profile(method, save)
    if json:
        _print_json(result.facts)
        return
    console.print(profile_table(result.facts))
    console.print(f"profile: {result.path}\ntrace:   {result.trace}", soft_wrap=True)


@app.command(name="doctor")
def doctor_command(*, json: Json = False) -> None:
    """Tell what was built, what was found, and what would be used."""
    facts = diagnose()
    if json:
        _print_json(facts)
    else:
        _console().print(render_diagnosis(facts))


@app.command(name="demo")
def demo_command(config: Annotated[DemoConfig, Whole], *, json: Json = False) -> None:
    """Distil scikit-learn's digits to ten images a class, and train on them; two minutes."""
    result = run_demo(config)
    if json:
        _print_json(dataclasses.asdict(result))
        return
    console = _console()
    table = Table(title="Digits: top-1 on test images")
    table.add_column("trained on")
    table.add_column("images", justify="right")
    table.add_column("top-1", justify="right")
    table.add_row("all training images (the observer)", str(result.train_images),
                  f"{result.observer_top1:.1%}")  # fmt: skip
    table.add_row("distilled images", str(result.distilled_images), f"{result.distilled_top1:.1%}")
    table.add_row("random images", str(result.distilled_images), f"{result.random_top1:.1%}")
    console.print(table)
    console.print(f"pictures: {result.contact_sheet}\nreport:   {result.report}", soft_wrap=True)


def main() -> None:
    """Run the command line; exit with 2 for what the user can mend, 130 for Ctrl-C."""
    try:
        app.cli(
            prog="pydream",
            description="Dataset distillation, fast and dependable.",
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
    except PydreamError as error:
        print(f"pydream: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "pydream: stopped; what was finished is kept: `pydream rded`, `dream` and `evaluate` "
            "go on with it when the same command is given again with --resume, `relabel` without",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
