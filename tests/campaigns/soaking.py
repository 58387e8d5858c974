"""Rounds of RDED, students and the other functions in one process, which says what each leaves.

Run as ``python soaking.py FOLDER SECONDS ROUNDS``: it goes on until both have passed, and appends a
line of JSON to FOLDER/rounds.jsonl after each round.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rded_runs import settings, write_pictures, write_random_observer

from pydream.dream import DreamConfig
from pydream.dream import distill as dream
from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig, RelabelConfig, evaluate_set, relabel
from pydream.inspection import inspect
from pydream.inspection.config import InspectConfig
from pydream.rded import distill as rded
from pydream.sets import ExportConfig, export_set

_KINDS = 40  # kinds of objects that a line lists, the most frequent ones


def work(folder: Path, number: int) -> None:
    """Distil small pictures twice, and do with a set whatever there is to do.

    Parameters
    ----------
    folder
        Folder of `prepare`, which is left as it was.
    number
        Number of the round, from which all seeds follow.
    """
    pictures, packed = str(folder / "pictures"), str(folder / "pictures.zip")
    weights = folder / "observer.safetensors"
    observer = str(weights)
    out = folder / "round"
    given = {"seed": number, "preselect": 8}
    made = rded(settings(folder / "pictures", weights, out / "rded", **given)).path
    rded(settings(folder / "pictures.zip", weights, out / "refined", refine=2, **given))
    evaluate_set(
        EvaluateConfig(
            set=made,
            observer=observer,
            epochs=2,
            seeds=(number,),
            baselines=("random",),
            source=packed,
        )
    )
    relabel(RelabelConfig(set=made, observer=observer, epochs=1, seeds=(number,)))
    inspect(InspectConfig(set=made, observer=observer, source=pictures))
    export_set(ExportConfig(set=made, to="tensors", observer=observer, out=out / "tensors"))
    export_set(ExportConfig(set=made, to="parquet", out=out / "parquet"))
    dream(
        DreamConfig(
            source=pictures,
            out=out / "dream",
            ipc=1,
            side=16,
            arch="convnet2-w16",
            iterations=1,
            inner_loop=1,
            batch_real=4,
            network_images=8,
            seed=number,
        )
    )
    with contextlib.suppress(PydreamError):  # a run that ends early must leave nothing, either
        rded(settings(folder / "damaged", weights, out / "refused", **given))
        raise AssertionError("pictures that cannot be read were distilled")
    shutil.rmtree(out)


def prepare(folder: Path) -> None:
    """Write pictures, the same in an archive, others of which half are damaged, and an observer."""
    for split in ("train", "val"):
        write_pictures(folder / "pictures" / split)
    shutil.make_archive(str(folder / "pictures"), "zip", folder / "pictures")
    shutil.copytree(folder / "pictures", folder / "damaged")
    for picture in (folder / "damaged").glob("train/*/*.jpg"):
        picture.write_bytes(picture.read_bytes()[:200])
    write_random_observer(folder / "observer.safetensors")


def left(folder: Path) -> dict[str, Any]:
    """Describe what the process holds, after a collection of all that nobody refers to."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    objects = gc.get_objects()
    kinds = Counter(map(type, objects))
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.is_dir()]
    return {
        "own_bytes": _own_bytes(),
        "resident_bytes": _kib("VmRSS", Path("/proc/self/status")) * 1024,
        "objects": len(objects),
        "kinds": {
            f"{kind.__module__}.{kind.__qualname__}": count
            for kind, count in kinds.most_common(_KINDS)
        },
        "caches": _caches(objects),
        "containers": _containers(),
        "files_open": sorted(_open_files()),
        "threads": len(tasks),
        "children": " ".join((task / "children").read_text() for task in tasks).split(),
        "files": sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*")),
    }


def _own_bytes() -> int:
    """Bytes of memory that this process alone has written.

    The memory of the program and of its libraries is not among them: the system loads and drops
    their pages as it likes.
    """
    rollup = Path("/proc/self/smaps_rollup")
    return 1024 * (_kib("Private_Dirty", rollup) + _kib("Swap", rollup))


def _kib(name: str, file: Path) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def _caches(objects: list[object]) -> dict[str, int]:
    """Number of values in each cache of functools, by the function's name."""
    sizes: Counter[str] = Counter()
    for thing in objects:
        if type(thing) is functools._lru_cache_wrapper:
            sizes[f"{thing.__module__}.{thing.__qualname__}"] += thing.cache_info().currsize
    return {name: size for name, size in sorted(sizes.items()) if size}


def _containers() -> dict[str, int]:
    """Number of entries in whatever holds things for a whole module of pydream or PyTorch."""
    return {
        f"{module}.{name}": len(value)
        for module, loaded in sorted(sys.modules.items())
        if module.partition(".")[0] in ("pydream", "torch")
        for name, value in sorted(vars(loaded).items())
        if isinstance(value, (dict, list, set)) and not name.startswith("__")
    }


def _open_files() -> Iterator[str]:
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the listing itself
            yield re.sub(r"\d+", "N", os.readlink(f"/proc/self/fd/{entry}"))


def main(folder: Path, seconds: float, rounds: int) -> None:
    """Make rounds until both limits are reached."""
    lines = folder / "rounds.jsonl"
    place = folder / "work"
    tempfile.tempdir = str(place / "temporary")
    (place / "temporary").mkdir(parents=True)
    prepare(place)
    begun = time.monotonic()
    number = 0
    with lines.open("w") as log:
        while number < rounds or time.monotonic() - begun < seconds:
            work(place, number)
            number += 1
            log.write(json.dumps({"round": number, **left(place)}) + "\n")
            log.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
