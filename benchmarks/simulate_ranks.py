"""Simulation of RDED on ImageNet by 1, 8 and 64 ranks, from what one rank was measured to take.

    python -m benchmarks.simulate_ranks

Nothing runs: rates and fixed costs come from the newest records of `pipeline_cuda`,
`pipeline_rded`, `million_images` and `ranks`, and what no record says is an assumption with a name
and a source (`ASSUMPTIONS`), which the record repeats. Images are divided as a run divides them, by
`Ranks.own` and whole passes of the observer, so the slowest rank decides. Writes a record, of which
`benchmarks.report` makes the table in docs/scale.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.records import RESULTS, decisive, newest_records, write_record
from pydream.models.registry import build_model
from pydream.models.tiles import choose_tile
from pydream.ranks import Ranks
from pydream.rded.groups import group_size

RANKS = (1, 8, 64)
PRESELECT, CROPS = 300, 5  # the published setting
PHOTOGRAPHS = 200  # of the case "imagenet" of pipeline_rded
# What opening and hashing need, and how long processes take to start.
FIXED_COSTS = {"million-images": "million_images", "ranks": "ranks"}


@dataclass(frozen=True)
class Assumption:
    """A number that no record has, and where it comes from."""

    value: float
    source: str


ASSUMPTIONS = {
    "images of ImageNet-1K": Assumption(1_281_167, "ILSVRC 2012 as shipped"),
    "classes of ImageNet-1K": Assumption(1000, "ILSVRC 2012 as shipped"),
    "fewest images of a class of ImageNet-1K": Assumption(732, "Russakovsky et al. 2015, table 2"),
    "images of ImageNet-21K-P": Assumption(11_600_000, "Ridnik et al. 2021, rounded"),
    "classes of ImageNet-21K-P": Assumption(10_450, "Ridnik et al. 2021, winter of 2021"),
    "fewest images of a class of ImageNet-21K-P": Assumption(
        450, "Ridnik et al. 2021: classes below 500 images are left out, and 50 are for validation"
    ),
    "bytes per second of a shared disk": Assumption(
        10e9, "chosen here: a parallel file system; ranks read at most this together"
    ),
    "time to open and hash files, against a warm local disk": Assumption(
        1, "chosen here: as in the record, on all ranks at once"
    ),
    "time of preflight and report, against the record": Assumption(
        1, "chosen here: neither grows with images or classes"
    ),
    "speed of a rank among others, against the record": Assumption(
        1, "chosen here: a further rank brings processors, and a GPU, of its own"
    ),
    "time of an image, against the photographs of the record": Assumption(
        1, "chosen here: they are as large, and classes beyond theirs cost nothing"
    ),
}


@dataclass(frozen=True)
class Rank:
    """What one rank was measured to take, and by which record."""

    label: str
    record: str
    images_per_second: float
    preflight: float  # seconds
    report: float  # seconds of the first rank, after the last image
    tile: int  # patches of a pass of the observer


@dataclass(frozen=True)
class FixedCosts:
    """What a rank does before it scores: seconds, in all or an image of the source."""

    records: tuple[str, ...]
    start: float
    open_per_image: float
    preselect_per_image: float
    hash_per_candidate: float
    bytes_of_image: float


def measured_ranks(records: Sequence[Mapping[str, Any]]) -> Iterator[Rank]:
    """Give out the rates of one rank: photographs decoded, cropped and scored."""
    for record in records:
        about = decisive(record["machine"])
        if record["name"] == "rded-cuda" and "decode=host" in record["results"]:
            case = record["results"]["decode=host"]
            yield Rank(
                f"{about['gpu']}, {record['machine']['cores']} cores",
                record["file"],
                case["images_per_second_scoring"],
                case["stages"]["preflight"],
                case["stages"]["report"],
                tile_of("meta", case["precision"]),
            )
        elif record["name"] == "rded" and "imagenet" in record["results"]:
            runs = record["results"]["imagenet"]["runs"]["pydream"]
            stages = [run["stages"] for run in runs]
            fixed = ("open", "preflight", "report")
            scoring = median(of["whole"] - sum(of[name] for name in fixed) for of in stages)
            yield Rank(
                f"{about['processor']}, {about['cores']} cores, {runs[0]['precision']}",
                record["file"],
                PHOTOGRAPHS / scoring,
                median(of["preflight"] for of in stages),
                median(of["report"] for of in stages),
                tile_of("cpu", runs[0]["precision"]),
            )


def tile_of(device: str, precision: str) -> int:
    """Return the patches of a pass of a ResNet-18 at 224 pixels; "meta" stands for any GPU."""
    dtype: torch.dtype = getattr(torch, precision)
    model = build_model("resnet18", num_classes=1000, side=224).eval().to(device, dtype)
    return choose_tile(model, 224, dtype, torch.device(device))


def fixed_costs(records: Sequence[Mapping[str, Any]]) -> FixedCosts:
    """Return the fixed costs of a rank; end the program if a record is missing."""
    found = {record["name"]: record for record in records if record["name"] in FIXED_COSTS}
    for name, module in FIXED_COSTS.items():
        if name not in found:
            raise SystemExit(f"no record of {name}: run `python -m benchmarks.{module}` first")
    source = found["million-images"]["results"]["class folders"]
    started = found["ranks"]["results"]["cifar10"]["of_a_rank"]

    def seconds(part: str) -> float:
        return float(median(run["parts"][part] for run in source["runs"]))

    return FixedCosts(
        tuple(record["file"] for record in found.values()),
        max(parts["imports"] for parts in started.values()),
        seconds("open") / source["images"],
        seconds("pre-select") / source["images"],
        seconds("fingerprint and identity") / source["runs"][0]["pre-selected"],
        source["mean_bytes_of_files"],
    )


def scored_images(candidates: Sequence[int], ranks: int, group: int) -> list[int]:
    """Return the number of images that each rank scores, those shared at borders on both sides.

    Parameters
    ----------
    candidates
        Pre-selected images of each class.
    ranks
        Number of ranks.
    group
        Images that share passes of the observer, so that they are scored together.
    """
    starts = np.concatenate([[0], np.cumsum(candidates)])
    scored = []
    for number in range(ranks):
        own = Ranks(number, ranks).own(candidates)
        first, end = int(starts[own.start]), int(starts[own.stop])
        whole = min(-(-end // group) * group, int(starts[-1])) - first // group * group
        scored.append(whole if len(own) else 0)
    return scored


def simulate(rank: Rank, costs: FixedCosts, name: str, count: int) -> dict[str, Any]:
    """Return the seconds of a run by some ranks, by parts."""
    images = ASSUMPTIONS[f"images of {name}"].value
    classes = int(ASSUMPTIONS[f"classes of {name}"].value)
    fewest = int(ASSUMPTIONS[f"fewest images of a class of {name}"].value)
    candidates = [min(PRESELECT, fewest)] * classes
    most = max(scored_images(candidates, count, group_size(rank.tile, CROPS)))
    disk = ASSUMPTIONS["bytes per second of a shared disk"].value / costs.bytes_of_image
    speed = ASSUMPTIONS["speed of a rank among others, against the record"].value
    longer = ASSUMPTIONS["time of an image, against the photographs of the record"].value
    own_rate = rank.images_per_second * speed / longer
    rate = min(own_rate, disk / count)
    files = ASSUMPTIONS["time to open and hash files, against a warm local disk"].value
    fixed = ASSUMPTIONS["time of preflight and report, against the record"].value
    parts = {
        "start": costs.start,
        "open": images * costs.open_per_image * files,
        "pre-select": images * costs.preselect_per_image,
        "hash": sum(candidates) * costs.hash_per_candidate * files,
        "preflight": rank.preflight * fixed,
        "score": most / rate,
        "report": rank.report * fixed,
    }
    return {
        "images": sum(candidates),
        "images_of_slowest_rank": most,
        "limited_by": "disk" if rate < own_rate else "rank",
        "parts": parts,
        "seconds": math.fsum(parts.values()),
    }


def simulate_all(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Simulate all sets by all measured ranks; the results of the record."""
    costs, measured = fixed_costs(records), list(measured_ranks(records))
    if not measured:
        raise SystemExit("no record of a rank: run `python -m benchmarks.pipeline_rded` first")
    return {
        "assumptions": {name: asdict(assumed) for name, assumed in ASSUMPTIONS.items()},
        "fixed_costs": asdict(costs),
        "ranks": [
            {
                **asdict(rank),
                "runs": {
                    name: {str(count): simulate(rank, costs, name, count) for count in RANKS}
                    for name in ("ImageNet-1K", "ImageNet-21K-P")
                },
            }
            for rank in measured
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, default=RESULTS, help="folder of the records")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    results = simulate_all(list(newest_records(arguments.records)))
    print(write_record("simulated-ranks", results, arguments.out))


if __name__ == "__main__":
    main()
