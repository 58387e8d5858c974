from __future__ import annotations

import dataclasses
import errno
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pydream
from pydream.dream.compare import Comparison
from pydream.dream.config import CompareConfig, DreamConfig
from pydream.models import ObserverConfig, train_observer
from pydream.ops import _dispatch
from pydream.rded import RdedConfig

pytest.importorskip("tyro", reason="the command line needs tyro")
from pydream.cli import _show_warning, commands, main, parsing
from pydream.cli.help import description, examples
from pydream.cli.options import PROFILED, SPEED, Option, grouped_options, option_names, options_of
from pydream.cli.tables import print_comparison

COMMANDS = (
    "rded", "dream", "dream-compare", "experts", "refine", "observer", "relabel", "evaluate",
    "merge", "export", "inspect", "doctor", "demo",
)  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Run the command line in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["pydream", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture(scope="module")
def observer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("observer") / "digits.safetensors"
    train_observer(
        ObserverConfig(
            source="digits", arch="convnet2-w16", epochs=4, horizontal_flip=False, out=out
        )
    )
    return out


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / "tiny" / name).mkdir(parents=True)
        for number in range(3):
            picture = Image.fromarray(np.full((9, 9, 3), 40 * number, dtype=np.uint8))
            picture.save(tmp_path / "tiny" / name / f"{number}.png")
    return tmp_path / "tiny"


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pydream", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"pydream {pydream.__version__}\n"


def test_what_is_installed_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "doctor", "--json")  # 0 or 1: the machine may have its problems
    assert "ops" in json.loads(capsys.readouterr().out)


def test_experts_and_what_matches_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    experts = tmp_path / "experts"
    arch = ("--arch", "convnet2-w4-instance")
    made = ("experts", "digits", "--count", 1, "--epochs", 1, *arch, "--out", experts)
    assert run(monkeypatch, *made) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "convnet2-w4-instance with" in printed
    assert "experts: 1, epochs of each: 1" in printed
    matched = ("dream", "digits", "--framework", "mtt", "--experts", experts, "--ipc", 1, *arch)
    steps = ("--iterations", 1, "--student-steps", 2, "--max-start", 1, "--expert-epochs", 1)
    assert run(monkeypatch, *matched, *steps, "--out", tmp_path / "set") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "matched trajectory, mse, convnet2-w4-instance, representative real images" in printed


def test_a_comparison_names_its_methods(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    curves = {"random": [[0.1, 0.4]], "representative": [[0.4, 0.5]], "bidirectional": [[0.2, 0.3]]}
    print_comparison(Comparison([0, 9], curves, tmp_path), 1)
    printed = capsys.readouterr().out
    assert "representative reaches it in iteration 0; random sampling takes 9" in printed
    assert "bidirectional does not reach it; random sampling takes 9" in printed


def test_distil_inspect_evaluate(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    observer: Path,
) -> None:
    out = tmp_path / "set"
    distil = ("rded", "digits", "--observer", observer, "--ipc", 2, "--preselect", 20)
    assert run(monkeypatch, *distil, "--out", out, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["path"] == str(out)
    assert captured.err.startswith("device: cpu (")
    assert run(monkeypatch, "inspect", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["integrity"]["intact"] is True
    evaluate = ("evaluate", out, "--observer", observer, "--epochs", 2)
    assert run(monkeypatch, *evaluate, "--seeds", 0, 1, "--baselines", "random", "--json") == 0
    results = json.loads(capsys.readouterr().out)
    assert {row["images"] for row in results["rows"]} == {"distilled", "random"}
    assert run(monkeypatch, *evaluate) == 0
    assert "top-1" in capsys.readouterr().out


def test_distil_for_people(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    observer: Path,
) -> None:
    out = tmp_path / "set"
    distil = ("rded", "digits", "--observer", observer, "--ipc", 1, "--preselect", 9)
    assert run(monkeypatch, *distil, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "10 classes x 1" in printed
    assert f"pictures: {out}/report.html" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rded", "nowhere", "--observer", "x.pt"), "nowhere"),
        (("rded", "TINY", "--observer", "x.pt"), "x.pt"),
        (("rded", "TINY", "--observer", "OBSERVER", "--ipc", "1"), "does not know the classes"),
        (("rded", "digits", "--observer", "OBSERVER", "--ipc", "0"), "ipc must be at least 1"),
        (("rded", "digits", "--observer", "OBSERVER", "--ipc", "9999"), "what would fit"),
        (("rded", "digits", "--observer", "OBSERVER", "--ipc", "many"), "there is no such file"),
        (
            ("rded", "digits", "--observer", "OBSERVER", "--ipc", "10", "--preselect", "4"),
            "give --preselect 10 or more",
        ),
        (("rded", "digits", "--observer", "OBSERVER", "--out", "TINY"), "not a distilled set"),
        (("rded", "digits", "--observer", "OBSERVER", "--arch", "convnet3"), "convnet3"),
        (("rded", "digits", "--observer", "OBSERVER", "--arch", "convnoot"), "convnoot"),
        (("rded", "TINY", "--observer", "OBSERVER", "--device", "cuda:99"), "'cuda:99' cannot be"),
        (("rded", "TINY", "--observer", "OBSERVER", "--device", "tpu!"), "'tpu!' cannot be"),
        (("inspect", "nowhere"), "nowhere does not exist; give a set of pydream"),
        (("inspect", "OBSERVER"), "is not a distilled set"),
        (("evaluate", "TINY", "--observer", "OBSERVER"), "does not say what it was distilled"),
        (("relabel", "TINY", "--observer", "OBSERVER"), "does not know the classes a, b"),
        (("refine", "TINY", "--observer", "OBSERVER"), "no distilled set here"),
        (("refine", "TINY", "--observer", "OBSERVER", "--steps", "0"), "steps must be at least 1"),
        (("evaluate", "TINY"), "online labels need an observer"),
        (("observer", "nowhere", "--arch", "convnet3", "--out", "o.safetensors"), "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    observer: Path,
    tiny: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"TINY": tiny, "OBSERVER": observer}
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, *(names.get(argument, argument) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pydream: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["rded", "observer"])
def test_a_gpu_that_the_build_has_no_code_for_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    observer: Path,
    command: str,
) -> None:
    """Played on a machine without a GPU: what torch and the compiled module say of one."""
    real = torch.zeros

    def zeros(*size: Any, device: str = "cpu", **options: Any) -> Any:
        if torch.device(device).type == "cuda":
            return SimpleNamespace(device=torch.device("cuda", 0))
        return real(*size, device=device, **options)

    kernels = SimpleNamespace(
        has_code_for=lambda index: False,
        driver_version=lambda: 13000,
        runtime_version=lambda: 13000,
    )
    build = SimpleNamespace(cuda_architectures="80-real 90", cuda=kernels)
    monkeypatch.setattr(_dispatch, "_C", build)
    monkeypatch.setattr(torch, "zeros", zeros)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla V100")
    monkeypatch.chdir(tmp_path)
    more = ("--observer", observer) if command == "rded" else ()
    assert run(monkeypatch, command, "digits", *more, "--device", "cuda") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("pydream: device 'cuda' cannot be used: this build of pydream ")
    assert captured.err.endswith("install it again with PYDREAM_CUDA_ARCHS=70\n")
    assert captured.err.count("\n") == 1


def test_a_warning_of_ours_is_one_line_and_others_are_as_python_has_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save([torch.rand(2, 3, 8, 8) * 1.01 - 0.005, torch.tensor([0, 1])], tmp_path / "set.pt")
    show = warnings.showwarning
    undo = ("--image-mean", "0", "0", "0", "--image-std", "1", "1", "1")
    assert run(monkeypatch, "inspect", tmp_path / "set.pt", *undo) == 0
    captured = capsys.readouterr().err
    assert re.fullmatch(r"pydream: \S+set\.pt: \d\.\d\d% of the values .* clipped\n", captured)
    assert warnings.showwarning is show
    elsewhere = (RuntimeWarning("theirs"), RuntimeWarning, "/x/other.py", 3)
    _show_warning(*elsewhere)
    assert capsys.readouterr().err == warnings.formatwarning(*elsewhere)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("rded", "x", "--observer", "y", "--precison", "float32"),
            "rded has no option --precison; the nearest are --precision, ",
        ),
        (("rded", "--observr=y"), "rded has no option --observr; the nearest are --observer, "),
        (
            ("profile", "dream", "x", "--metrik", "l1"),
            "profile dream has no option --metrik; the nearest are --metric, --framework; see ",
        ),
        (
            ("profile", "--save", "p.json", "rded", "x", "--observer", "y", "--ipcc", "3"),
            "profile rded has no option --ipcc; the nearest is --ipc; see ",
        ),
        (
            ("profile", "--save=p.json", "rded", "x", "--observer", "y", "--crops", "abc"),
            "profile rded: --crops takes INT; got abc; see ",
        ),
        (
            ("profile", "rded", "x", "--observer", "y", "--save", "p.json"),
            "profile rded: --save goes before rded; see ",
        ),
        (
            ("profile", "--ipc", "3", "rded", "x", "--observer", "y"),
            "profile rded: --ipc goes after rded; see ",
        ),
        (
            ("profile", "rdad", "src"),
            "profile runs rded, dream, evaluate; got 'rdad'; the nearest is rded; see ",
        ),
        (("profile", "xyz"), "profile runs rded, dream, evaluate; got 'xyz'; see "),
        (
            ("profile", "--save", "dream", "rded", "x", "--observer", "y", "--ipcc", "3"),
            "profile rded has no option --ipcc; the nearest is --ipc; see ",
        ),
        (("rded", "--version"), "rded has no option --version; the nearest are --precision, "),
        (("rded", "--zzz"), "rded has no option --zzz; see "),
        (
            ("observer", "x", "--horizontal-flip"),
            "observer has no option --horizontal-flip; the nearest is --no-horizontal-flip; see ",
        ),
        (("evalute", "x"), "there is no command 'evalute'; the nearest is evaluate; see "),
        (("xyzzy",), "there is no command 'xyzzy'; see "),
        (("--json", "doctor"), "options come after the command; got --json before it; see "),
        (("--ipc", "3", "rded"), "options come after the command; got --ipc before it; see "),
        (("--ipc=3", "rded", "x"), "options come after the command; got --ipc before it; see "),
        (("rded", "x", "y", "--observer", "z"), "rded: 'y' is one word too many"),
        (("rded", "--ipc", "3"), "rded needs SOURCE and --observer"),
        (
            ("export", "x", "--to", "zip"),
            "export: --to takes tensors, dc, mtt, rded, patches, cim, ddranking, parquet, "
            "rethinkdc, webdataset; got 'zip'",
        ),
        (("rded", "x", "--observer", "y", "--crops", "many"), "rded: --crops takes INT; got many"),
        (("rded", "x", "--observer", "y", "--crops=many"), "--crops takes INT; got many; see "),
        (("inspect", "x", "--image-mean=a"), "--image-mean takes [FLOAT [FLOAT ...]]; got a; see "),
        (("inspect", "x", "--image_std", "a", "b"), "[FLOAT [FLOAT ...]]; got a b; see "),
        (("rded", "x", "--observer", "y", "--arch"), "rded: --arch needs a value; see "),
        (("evaluate", "x", "--crop-scale", "1"), "--crop-scale takes FLOAT FLOAT; got 1"),
        (("rded", "x", "--observer"), "rded: --observer needs a value"),
        ((), "name a command: rded, dream, "),
    ],
)
def test_a_wrong_command_line_is_one_line_with_a_hint(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run(monkeypatch, *arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"pydream: {message}") or message in captured.err
    assert captured.err.count("\n") == 1
    words = [word for word in arguments[:1] if word in commands.COMMANDS]
    if words == ["profile"]:
        methods = [word for word in re.findall(r"profile (\w+)", message) if word in PROFILED]
        words += methods
    assert captured.err.endswith(f"; see `{' '.join(['pydream', *words, '--help'])}`\n")


@pytest.mark.parametrize("command", sorted(commands.COMMANDS))
def test_ctrl_c_tells_how_to_continue_where_finished_work_is_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(parsing, "run", interrupt)
    assert run(monkeypatch, command) == 130
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("pydream: stopped")
    kept = {*COMMANDS} - {"export", "inspect", "doctor", "demo"}
    assert ("finished work is kept" in printed) == (command in kept)
    resumed = {*re.findall("`(?:pydream )?([a-z-]+)`", printed)}
    assert (command in resumed) == ("--resume" in option_names([command], commands.COMMANDS))


@pytest.mark.parametrize("command", ["rded", "export"])
@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("can't start new thread"),
        RuntimeError("Resource temporarily unavailable"),
        RuntimeError("could not create a primitive"),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        SystemError("error return without exception set"),
        ImportError("libx.so: failed to map segment from shared object: Cannot allocate memory"),
    ],
)
def test_too_little_memory_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    error: Exception,
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(parsing, "run", fail)
    assert run(monkeypatch, command) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.startswith("pydream: out of memory: ")
    assert ("finished work is kept" in printed) == (command == "rded")


def test_an_underscore_in_an_option_is_a_hyphen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "rded", "nowhere", "--observer", "y", "--allow_weak_observer") == 2
    assert "nowhere" in capsys.readouterr().err


PAGES = [[], *([name] for name in commands.COMMANDS), *(["profile", name] for name in PROFILED)]
# Options without a default: what they name is left out unless given.
NO_DEFAULT = {"compare", "image", "report", "classes", "observer", "source", "baselines"}


def all_options() -> list[tuple[str, Option]]:
    return [
        (name, option)
        for name in commands.COMMANDS
        for option in options_of(name, commands.COMMANDS)
    ]


def options_that_tyro_shows(text: str) -> list[str]:
    """Find the options of tyro's own help, where each begins a line of a box."""
    lines = re.findall(r"^\W (--[a-z].*)", text, re.MULTILINE)
    name_and_more = re.compile(r"(--[a-z-]+)(?=  |, -| [A-Z{[]| *│)")
    return [name for line in lines for name in name_and_more.findall(line)]


def test_every_command_is_tried_and_its_options_are_those_that_tyro_parses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert {*COMMANDS, "profile"} == {*commands.COMMANDS}
    monkeypatch.setattr(parsing, "help_page", None)
    for command in commands.COMMANDS:
        monkeypatch.setattr(sys, "argv", ["pydream", command, "--help"])
        with pytest.raises(SystemExit):
            parsing.parse()
        shown = options_that_tyro_shows(capsys.readouterr().out)
        known = option_names([command], commands.COMMANDS)
        assert sorted({*shown, "--help"}) == sorted(known), command


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_help_has_usage_groups_and_examples_within_the_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    assert run(monkeypatch, *page, "--help") == 0
    printed = capsys.readouterr().out
    assert printed.startswith("usage: pydream ")
    options, _, shown = printed.rpartition("\n\nExample")
    assert "\n  pydream " in shown
    assert max(map(len, options.splitlines()[1:])) <= 72
    if page:
        groups = grouped_options(page[-1], commands.COMMANDS)
        assert all(f"\n\n{title}\n" in options for title in groups)
        for option in itertools.chain.from_iterable(groups.values()):
            assert all(f" {name}" in options for name in option.names), option
    else:
        assert all(f"\n  {name} " in options for name in commands.COMMANDS)


def test_descriptions_stand_alone_and_name_their_default_once() -> None:
    for command, option in all_options():
        text = description(option)
        where = f"{command} {option.field}: {text}"
        assert re.match(r"[A-Z]|auto ", text), where
        assert re.search(r"[.)]$", text), where
        assert "\n" not in text, where
        assert "None" not in text or option.owner is CompareConfig, where
        assert not re.match(r"Of |As of |Likewise|What |How |Whose ", text), where
        count = len(re.findall(r"\bdefault", text))
        if option.required or option.flag:
            assert count == 0, where
        elif not option.default and option.field in NO_DEFAULT:
            assert count <= 1, where
        else:
            assert count == 1, where


def test_a_setting_of_the_speed_group_is_no_part_of_the_identity_of_a_set() -> None:
    configs: dict[str, Any] = {
        "rded": RdedConfig(source="digits", observer="x.pt"),
        "dream": DreamConfig(source="digits"),
    }
    for command, config in configs.items():
        for option in grouped_options(command, commands.COMMANDS)[SPEED]:
            changed = dataclasses.replace(config, **{option.field: (option.default or 0) + 1})
            assert changed.identity() == config.identity(), option.field


@pytest.mark.parametrize("command", sorted(commands.COMMANDS))
def test_the_examples_in_help_are_valid_command_lines(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    called = []

    def stand_in(function: Callable[..., Any]) -> Callable[..., None]:
        @functools.wraps(function)
        def record(*values: object, **settings: object) -> None:
            called.append(function)

        return record

    stand_ins = {name: stand_in(function) for name, function in commands.COMMANDS.items()}
    monkeypatch.setattr(parsing, "COMMANDS", stand_ins)
    shown = examples(command, stand_ins)
    assert shown
    for line in shown:
        program, *arguments = line.split()
        assert program == "pydream"
        assert arguments[0] == command
        assert run(monkeypatch, *arguments) == 0, line
    assert len(called) == len(shown)


def test_a_closed_pipe_and_a_terminal_without_the_characters_end_quietly() -> None:
    script = f"""
        {sys.executable} -m pydream rded --help | head -1
        {sys.executable} -m pydream nonsense-× 2>&1
        {sys.executable} -m pydream observer --help | tail -2
        {sys.executable} -m pydream --version >&-
    """
    done = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("usage: pydream rded")
    assert "there is no command" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("rded", "--observer", "x.safetensors"),
        ("dream", "--arch", "convnet2-w8"),
        ("observer", "--arch", "convnet2-w8", "--epochs", "1"),
        ("experts", "--arch", "convnet2-w8", "--epochs", "1", "--count", "1"),
    ],
)
def test_what_is_made_of_class_folders_lies_outside_of_them(
    arguments: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Path,
) -> None:
    """Its folder would be one more class, for which a killed run could not go on."""
    monkeypatch.chdir(tiny)
    (tiny.parent / "linked").symlink_to(tiny)
    command, *options = arguments
    for source, out in ((".", ()), ("../tiny", ("--out", "a/x")), ("../linked", ("--out", "x"))):
        assert run(monkeypatch, command, source, *options, "--device", "cpu", *out) == 2
        assert "is among the class folders of" in capsys.readouterr().err
        assert sorted(path.name for path in tiny.iterdir()) == ["a", "b"]
        assert len(list((tiny / "a").iterdir())) == 3


def test_an_unknown_instruction_set_is_named_before_the_work() -> None:
    """By commands that do work; help needs no kernels."""
    script = f"""
        {sys.executable} -m pydream inspect nowhere || echo $?
        {sys.executable} -m pydream inspect --help | head -1
    """
    environment = {**os.environ, "PYDREAM_ISA": "mmx"}
    done = subprocess.run(
        ["sh", "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout.startswith("2\nusage: pydream inspect")
    assert done.stderr.startswith("pydream: PYDREAM_ISA: instruction set 'mmx' is not available")
    assert done.stderr.endswith("; unset it\n")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device here plays a full disk")
def test_a_full_disk_under_standard_output_is_one_line() -> None:
    """Found when a short output is flushed at the end, and amid a long one."""
    script = f"""
        {sys.executable} -m pydream --version > /dev/full || echo $?
        {sys.executable} -m pydream rded --help > /dev/full || echo $?
    """
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    line = "pydream: standard output cannot be written: No space left on device\n"
    assert (done.stdout, done.stderr) == ("2\n2\n", 2 * line)
