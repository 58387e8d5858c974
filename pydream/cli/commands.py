"""The commands, one function each, which import on demand so that help needs no PyTorch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from statistics import fmean
from typing import Annotated

import tyro

from pydream.cli.options import Commands, Json, Whole
from pydream.demo import DemoConfig
from pydream.dream.config import CompareConfig, DreamConfig
from pydream.dream.experts_config import ExpertsConfig
from pydream.errors import PydreamError
from pydream.evaluate.config import EvaluateConfig, RelabelConfig
from pydream.files import check_free, expand_home, write_new
from pydream.formatting import byte_words
from pydream.inspection.config import InspectConfig
from pydream.models.config import ObserverConfig
from pydream.rded.config import RdedConfig
from pydream.refinement.config import RefineConfig
from pydream.sets.config import ExportConfig, MergeConfig

_NEW_REPORT = "give --report the name of a new file"


def rded_command(
    config: Annotated[RdedConfig, Whole], *, dry_run: bool = False, json: Json = False
) -> None:
    """Distil a data set with RDED, which tiles the most realistic patches of real images.

    Parameters
    ----------
    config
        The settings.
    dry_run
        Predict the seconds, memory and bytes of the run from about ten seconds of it, and leave
        nothing behind.
    json
        Print the result as JSON, for scripts.

    Examples
    --------
    pydream rded imagenette --observer resnet18.safetensors --ipc 10
    pydream rded imagenette --observer resnet18.safetensors --ipc 10 --dry-run
    pydream rded cifar10:data --observer convnet3.pt --factor 1 --out cifar10-rded
    """
    from pydream.cli.tables import print_prediction, print_set
    from pydream.rded import distill, predict

    if dry_run:
        print_prediction(predict(config), json=json)
        return
    result = distill(config)
    observer = result.manifest.observer
    assert observer is not None  # every set of RDED has one
    rows = {
        "observer": f"{observer['arch']}, right on {observer['top1']:.1%} of "
        f"{observer['images']} images ({observer['held_out']})"
    }
    for number, other in enumerate(result.manifest.further_observers or (), start=2):
        rows[f"observer {number}"] = (
            f"{other['arch']}, right on {other['top1']:.1%} of {other['images']} images"
        )
    print_set(result, rows, json=json)


def dream_command(config: Annotated[DreamConfig, Whole], *, json: Json = False) -> None:
    """Distil a data set with DREAM+, which optimises images to match representative real ones.

    Examples
    --------
    pydream dream cifar10:data --ipc 10 --out cifar10-dream
    pydream dream digits --eval-every 5
    """
    from pydream.cli.tables import print_set
    from pydream.dream import distill

    result = distill(config)
    settings, history = result.manifest.config, result.manifest.history
    assert settings is not None and history is not None  # noqa: PT018  (as of every set of DREAM+)
    rows = {
        "matched": f"{settings['match']}, {settings['metric']}, {settings['arch']}, "
        f"{settings['sampler']} real images, recipe {settings['recipe']}",
        "loss": f"{history[1]['loss']:.4g} in the first iteration, "
        f"{history[-1]['loss']:.4g} in the last of {len(history) - 1}",
    }
    if history[-1].get("top1"):
        rows["students"] = f"{fmean(history[-1]['top1']):.1%} on real test images"
    print_set(result, rows, json=json)


def dream_compare_command(config: Annotated[CompareConfig, Whole], *, json: Json = False) -> None:
    """Compare random sampling, DREAM and DREAM+ by the accuracy of students at each iteration.

    Examples
    --------
    pydream dream-compare cifar10:data --out comparison
    """
    from pydream.cli.tables import print_comparison, print_json
    from pydream.dream import compare

    result = compare(config)
    if json:
        print_json(dataclasses.asdict(result))
    else:
        print_comparison(result, config.seeds)


def experts_command(config: Annotated[ExpertsConfig, Whole], *, json: Json = False) -> None:
    """Train experts, whose trajectories `dream --framework mtt` matches.

    Examples
    --------
    pydream experts cifar10:data --out cifar10-experts
    pydream experts digits --count 5 --epochs 10
    """
    from pydream.cli.tables import print_result
    from pydream.dream import train_experts

    experts = train_experts(config)
    arch, parameters = experts.description["arch"], experts.description["parameters"]
    text = (
        f"{experts.path}: {arch} with {parameters:,} parameters, experts: {len(experts.files)}, "
        f"epochs of each: {experts.epochs}"
    )
    print_result(experts, text, json=json)


def observer_command(config: Annotated[ObserverConfig, Whole], *, json: Json = False) -> None:
    """Train an observer, a classifier of the images to be distilled.

    Examples
    --------
    pydream observer imagenette --arch resnet18 --out resnet18.safetensors
    pydream observer digits --arch convnet2-w64 --no-horizontal-flip
    """
    from pydream.cli.tables import print_result
    from pydream.models import train_observer

    result = train_observer(config)
    text = (
        f"{result.path}: {result.arch}, top-1 {result.top1:.2%} on {result.images} images "
        f"({result.held_out}), {result.seconds:.0f} s"
    )
    print_result(result, text, json=json)


def evaluate_command(config: Annotated[EvaluateConfig, Whole], *, json: Json = False) -> None:
    """Train students on a distilled set and report their accuracy on real test images.

    Examples
    --------
    pydream evaluate distilled --observer resnet18.safetensors
    pydream evaluate distilled --labels hard --students convnet3 resnet18-modified --seeds 0 1 2
    pydream evaluate distilled --observer resnet18.safetensors --recipes rded rd3 cim
    """
    from pydream.cli.tables import console, print_json
    from pydream.evaluate import evaluate_set, result_table
    from pydream.evaluate.result_files import curve_file

    result = evaluate_set(config)
    if json:
        print_json(result.as_dict())
        return
    console().print(result_table(result))
    page = result.path.with_suffix(".html")
    console().print(f"results: {result.path}\npage:    {page}", soft_wrap=True)
    for figure in (result.path.with_suffix(".png"), curve_file(result.path)):
        if figure.exists():
            console().print(f"figure:  {figure}", soft_wrap=True)


def relabel_command(config: Annotated[RelabelConfig, Whole], *, json: Json = False) -> None:
    """Store an observer's labels for a distilled set, so that students train without the observer.

    Examples
    --------
    pydream relabel distilled --observer resnet18.safetensors --epochs 300 --every 10
    pydream relabel distilled --observer resnet18.safetensors --budget 300MB
    """
    from pydream.cli.tables import print_result
    from pydream.evaluate import relabel

    result = relabel(config)
    text = (
        f"labels of {result.epochs} epochs: {byte_words(result.labels_bytes)}; images: "
        f"{byte_words(result.images_bytes)}\n"
    )
    if config.budget is not None:
        text += (
            f"of each student: {result.student_bytes:,} bytes, within {config.budget}: "
            f"--labels stored@{config.budget}\n"
        )
    text += f"labels: {result.path}"
    print_result(result, text, json=json)


def refine_command(config: Annotated[RefineConfig, Whole], *, json: Json = False) -> None:
    """Refine the cells of a distilled set until they show an observer what their anchors show.

    Examples
    --------
    pydream refine distilled --observer resnet18.safetensors --steps 100 --out refined
    """
    from pydream.cli.tables import print_set
    from pydream.inspection.facts import distance_words, refinement_words
    from pydream.refinement import refine

    result = refine(config)
    record = result.manifest.refinement
    assert record is not None  # every refined set has one
    rows = {
        "refined": refinement_words(record),
        "distance": f"{distance_words(record)} (squared, of features to anchors)",
    }
    print_set(result, rows, json=json)


def export_command(config: Annotated[ExportConfig, Whole], *, json: Json = False) -> None:
    """Write a distilled set in the layout of another tool.

    Examples
    --------
    pydream export distilled --to tensors --out tensors
    pydream export distilled --to ddranking --observer resnet18.safetensors --out ddranking
    """
    from pydream.cli.tables import print_result
    from pydream.sets import export_set

    result = export_set(config)
    text = f"{result.path}: {result.images} images for {result.to}, {byte_words(result.bytes)}"
    print_result(result, text, json=json)


def merge_command(config: Annotated[MergeConfig, Whole], *, json: Json = False) -> None:
    """Merge what shards made in folders of their own into one distilled set.

    Examples
    --------
    pydream merge distilled part-0 part-1 part-2
    """
    from pydream.cli.tables import print_set
    from pydream.merging import merge

    print_set(merge(config), {}, json=json)


def inspect_command(
    config: Annotated[InspectConfig, Whole],
    *,
    per_class: bool = False,
    image: str | None = None,
    report: Path | None = None,
    json: Json = False,
) -> None:
    """Describe a distilled set, check its files, and measure its quality without training.

    Parameters
    ----------
    config
        The settings.
    per_class
        Show the scores of every class.
    image
        Show only the source images that this distilled image was made of, named CLASS/INDEX with
        indices from 0.
    report
        Also write a page of the set, with its measures, to this new file.
    json
        Print the facts as JSON, for scripts.

    Examples
    --------
    pydream inspect distilled
    pydream inspect distilled --observer resnet18.safetensors --source imagenette
    pydream inspect distilled --image n01440764/0
    """
    from pydream.cli.tables import console, print_json
    from pydream.inspection import image_origin, inspect, render_inspection, render_origin
    from pydream.ranks import ranks_of
    from pydream.sets.opening import open_named_set

    if image is not None:
        if config.observer or config.source or report:
            raise PydreamError("--image goes without --observer, --source and --report")
        origin = image_origin(open_named_set(config), image)
        if json:
            print_json(origin.as_json())
        else:
            console().print(render_origin(origin))
        return
    page = None if report is None else expand_home(report)
    ranks = ranks_of(None)
    with ranks.together():
        if page is not None and ranks.first:
            check_free(page, _NEW_REPORT)
        found = inspect(config)
        if page is not None and ranks.first:
            from pydream.report import render_report  # with matplotlib, which takes long to import

            write_new(page, render_report(found.distilled, found.measures).encode(), _NEW_REPORT)
    if json:
        print_json(found.facts.as_json())
    else:
        console().print(render_inspection(found.facts, per_class=per_class))


def profile_command(
    method: Annotated[RdedConfig, tyro.conf.subcommand("rded")]
    | Annotated[DreamConfig, tyro.conf.subcommand("dream")]
    | Annotated[EvaluateConfig, tyro.conf.subcommand("evaluate")]
    | None = None,
    *,
    compare: tuple[Path, Path] | None = None,
    save: Path | None = None,
    json: Json = False,
) -> None:
    """Run a command and show where its time goes, or compare two such profiles.

    Parameters
    ----------
    method
        The run to profile, with the settings of that command. Its result is discarded, unless
        --out is given.
    compare
        Two saved profiles of one method to show side by side.
    save
        New file for the profile, by default profile-METHOD-N.json. A Chrome trace for
        ui.perfetto.dev is written beside it.
    json
        Print the profile as JSON, for scripts.

    Examples
    --------
    pydream profile rded digits --observer digits.safetensors
    pydream profile --save before.json dream cifar10:data --iterations 2
    pydream profile evaluate distilled --labels hard --epochs 10
    pydream profile --compare before.json after.json
    """
    if compare is not None and (method is not None or save is not None or json):
        raise PydreamError("--compare A B goes alone")
    if compare is None and method is None:
        raise PydreamError("name what to profile: rded, dream or evaluate; or give --compare A B")
    from pydream.cli.tables import console, print_json
    from pydream.profiling import comparison_table, profile, profile_table, read_profile

    if compare is not None:
        one, other = (read_profile(expand_home(file)) for file in compare)
        names = str(compare[0]), str(compare[1])
        console().print(comparison_table(one, other, names=names))
        return
    assert method is not None  # checked above
    result = profile(method, None if save is None else expand_home(save))
    if json:
        print_json(result.as_json())
        return
    console().print(profile_table(result))
    console().print(f"profile: {result.path}\ntrace:   {result.trace}", soft_wrap=True)


def doctor_command(*, json: Json = False) -> None:
    """Show what was built, what was found, and what pydream would use.

    Examples
    --------
    pydream doctor
    pydream doctor --json
    """
    from pydream.cli.tables import console, print_json
    from pydream.doctor import diagnose, render_diagnosis

    diagnosis = diagnose()
    if json:
        print_json(diagnosis.as_json())
    else:
        console().print(render_diagnosis(diagnosis))


def demo_command(config: Annotated[DemoConfig, Whole], *, json: Json = False) -> None:
    """Distil scikit-learn's digits to ten images per class and train on them, in under a minute.

    Examples
    --------
    pydream demo
    pydream demo --ipc 1 --out try
    """
    from pydream.cli.tables import print_demo, print_json
    from pydream.demo import run_demo

    result = run_demo(config)
    if json:
        print_json(dataclasses.asdict(result))
    else:
        print_demo(result)


COMMANDS: Commands = {
    "rded": rded_command,
    "dream": dream_command,
    "dream-compare": dream_compare_command,
    "experts": experts_command,
    "observer": observer_command,
    "evaluate": evaluate_command,
    "refine": refine_command,
    "relabel": relabel_command,
    "merge": merge_command,
    "export": export_command,
    "inspect": inspect_command,
    "profile": profile_command,
    "doctor": doctor_command,
    "demo": demo_command,
}
