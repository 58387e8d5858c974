"""All that a GPU is needed for, in four calls of at most nine minutes and without a network.

    make gpu-check [OUT=FOLDER] [ONLY='STEP ...']
    python -m benchmarks.gpu_check [--list] [--only STEP ...] [--out FOLDER] [--data FOLDER]
    python -m benchmarks.gpu_check --rehearse

Builds with what is installed, runs the tests that use a GPU and the benchmarks (`--only first`),
then a few tests under compute-sanitizer and the pipelines, with the module that is in pydream/
(`--only second`; `--only build second` where kernels have changed), the ops of matching (`--only
matching`), and the frameworks of matching beside the published loops (`--only frameworks`). A
pipeline needs a file of images (imagenet-sample-200.zip, cifar10.zip), looked for in --data or
PYDREAM_DATA, in data/ and in ../shared/data. A step that fails does not stop the others. Records
lie under the folder of --out, written anew after every step and every case; the whole output of a
step is in its `<step>.log` there. The table comes last.

A rehearsal starts every step on the CPU with small sizes and images of noise, so that imports,
paths, arguments and records have all been tried before a GPU is there. It writes to a temporary
folder.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.gpu_steps import PARTS, REPOSITORY, Step, chosen, make_data, steps

LEAST_SETUPTOOLS = 77  # as pyproject.toml says
LEFT_OUT = "left out"
STOPPED = "stopped, with the whole check"
KEPT = "stopped: what was measured until now is in the record"
Result = dict[str, Any]


def run(step: Step, out: Path) -> Result:
    """Run a step; its outcome in a word, seconds, and last lines."""
    log = _free(out, step.name)
    print(f"\n=== {step.name}, {step.about}: {' '.join(step.command)}", flush=True)
    begun, written = time.perf_counter(), time.time()
    with log.open("wb") as file:
        process = subprocess.Popen(
            step.command,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **step.environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that a step is stopped with all that it has started
        )
        try:
            status = process.wait(timeout=step.limit)
            outcome = "passed" if status == 0 else f"failed ({status})"
        except subprocess.TimeoutExpired:
            _kill(process)
            outcome = f"stopped after {step.limit:.0f} s"
        except (SystemExit, KeyboardInterrupt):
            _kill(process)
            outcome = STOPPED
        except BaseException:
            _kill(process)
            raise
    text = log.read_text(encoding="utf-8", errors="replace")
    if outcome == "passed":
        outcome = _lacking(step, text, out, written) or outcome
    lines = text.splitlines()
    print("\n".join(lines[-60:]), flush=True)
    seconds = round(time.perf_counter() - begun, 1)
    return {"outcome": outcome, "seconds": seconds, "log": log.name, "last_lines": lines[-12:]}


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free(out: Path, name: str) -> Path:
    """Return the log's path; a number follows where that is taken."""
    out.mkdir(parents=True, exist_ok=True)
    number, log = 1, out / f"{name}.log"
    while log.exists():
        number += 1
        log = out / f"{name}-{number}.log"
    return log


def _lacking(step: Step, text: str, out: Path, begun: float) -> str | None:
    """Say what a step that ended well should have shown or written, and has not."""
    for pattern in step.shows:
        if re.search(pattern, text) is None:
            return f"incomplete: no {pattern}"
    if step.record is not None:
        files = out.glob(f"*/*-{step.record}*.json")
        if not any(file.stat().st_mtime >= begun - 1 for file in files):
            return f"incomplete: no record {step.record}"
    return None


def run_all(planned: Iterable[Step], out: Path) -> Iterator[tuple[str, Result]]:
    """Run the steps one after another, the same command but once; give out each result."""
    done: dict[str, str] = {}
    for step in planned:
        command = repr((step.command, step.environment))
        if step.missing is not None:
            yield step.name, _without(f"{LEFT_OUT}: {step.missing}")
        elif command in done:
            yield step.name, _without(f"{LEFT_OUT}: as {done[command]}")
        else:
            done[command] = step.name
            result = run(step, out)
            yield step.name, result
            if result["outcome"] == STOPPED:
                raise SystemExit(KEPT)


def _without(outcome: str, advice: str = "") -> Result:
    return {"outcome": outcome, "seconds": 0.0, "last_lines": [advice] if advice else []}


def check_setuptools() -> dict[str, Result]:
    """Return a failed step with advice where setuptools is missing or too old for the build."""
    try:
        found = version("setuptools")
    except PackageNotFoundError:
        found = "none"
    major = found.partition(".")[0]
    if major.isdigit() and int(major) >= LEAST_SETUPTOOLS:
        return {}
    advice = f"the build needs setuptools {LEAST_SETUPTOOLS} or newer, found {found}: install that"
    return {"setuptools": _without("failed", advice)}


def check(planned: list[Step], out: Path, *, on_gpu: bool) -> dict[str, Result]:
    """Run the steps, write the record after each of them from the build on, and print the table.

    The table is printed, too, where the check is stopped.
    """
    needing = ("metadata", "build")
    results = check_setuptools() if any(step.name in needing for step in planned) else {}
    built = all(step.name != "build" for step in planned)
    record: Any = None
    try:
        for name, result in run_all(planned, out):
            results[name] = result
            built = built or name == "build"
            if not built:
                continue  # records describe the module that is built: it is imported afterwards
            try:
                if record is None:
                    record = _open_record(out, on_gpu=on_gpu)
                record.results.update(results)
                record.add(name, result)
            except ImportError as error:
                print(f"no record: {error}")
    finally:
        if record is not None:
            print(record.path)
        show(results)
    return results


def _open_record(out: Path, *, on_gpu: bool) -> Any:
    import torch

    importlib.invalidate_caches()  # the module was built while this program ran
    from benchmarks.records import GrowingRecord

    return GrowingRecord("gpu-check", out, torch.device("cuda", 0) if on_gpu else None)


def show(results: dict[str, Result]) -> None:
    """Print the table."""
    print("\n=== outcome")
    for name, result in results.items():
        advice = f"   {result['last_lines'][-1]}" if name == "setuptools" else ""
        print(f"  {name:12s} {result['seconds']:7.1f} s   {result['outcome']}{advice}")


def show_list(planned: Iterable[Step]) -> None:
    """Print what --only takes."""
    for step in planned:
        parts = " and ".join(part for part, names in PARTS.items() if step.name in names)
        print(f"{step.name:12s} {step.limit:4.0f} s at most, {parts}: {step.about}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="print the names of the steps")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="STEP", help="or first, second or frameworks"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results")
    parser.add_argument("--data", type=Path, default=os.environ.get("PYDREAM_DATA"))
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with small sizes")
    return parser.parse_args()


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # both `timeout` and `make` send it
    raise SystemExit(KEPT)


def main() -> None:
    arguments = parse()
    signal.signal(signal.SIGTERM, _stop)  # so that the step that runs is stopped, too
    with tempfile.TemporaryDirectory() as place:
        out, data = arguments.out or REPOSITORY / "benchmarks" / "results", arguments.data
        if arguments.rehearse:
            out, data = arguments.out or Path(place) / "out", Path(place) / "data"
            make_data(data)
        try:
            planned = chosen(
                steps(out.resolve(), data, rehearse=arguments.rehearse), arguments.only
            )
        except ValueError as error:
            raise SystemExit(str(error)) from error
        if arguments.list:
            show_list(planned)
            return
        if not arguments.rehearse:
            _need_gpu()
            _need_module(planned)
        results = check(planned, out.resolve(), on_gpu=not arguments.rehearse)
    good = ("passed", LEFT_OUT)
    if any(not result["outcome"].startswith(good) for result in results.values()):
        raise SystemExit(1)


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise SystemExit(
            "torch finds no CUDA device here: this check is for a machine with a GPU; "
            "--rehearse tries it without one"
        )


def _need_module(planned: list[Step]) -> None:
    if any(step.name == "build" for step in planned):
        return
    if not any((REPOSITORY / "pydream").glob("_C*.so")):
        raise SystemExit(
            "no compiled module in pydream/: put back there what the first part has built, or add "
            "the step `build`"
        )


if __name__ == "__main__":
    main()
