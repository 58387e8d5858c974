"""Whole commands that begin at the same moment, with the same output, cache or folder."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from at_once import Ended, at_once
from campaigns.conftest import Campaign
from rded_runs import hashes, settings, write_pictures, write_random_observer

from pydream.rded import distill

RIVALS = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures as train and test, an archive of the former, an observer, and a set of them."""
    folder = tmp_path_factory.mktemp("pictures")
    for split in ("train", "test"):
        write_pictures(folder / "real" / split)
    write_random_observer(folder / "observer.safetensors")
    with tarfile.open(folder / "real.tar.gz", "w:gz") as archive:
        archive.add(folder / "real" / "train", "train")
    observer = folder / "observer.safetensors"
    distill(settings(folder / "real", observer, folder / "made", ipc=1, device="cpu"))
    return folder


def rded(source: Path, pictures: Path, out: Path) -> list[object]:
    return [
        "rded", source, "--observer", pictures / "observer.safetensors", "--out", out,
        "--ipc", 1, "--factor", 2, "--allow-weak-observer", "--device", "cpu",
    ]  # fmt: skip


def check_succeeded(ends: list[Ended]) -> None:
    assert [end.status for end in ends] == [0] * len(ends), ends


def check_one_won(ends: list[Ended]) -> None:
    """Check that one command succeeded, and that each other was refused in one line."""
    assert sorted(end.status for end in ends) == [0, *[2] * (len(ends) - 1)], ends
    for end in ends:
        errors = [line for line in end.said.splitlines() if line.startswith("pydream: ")]
        assert len(errors) == (end.status != 0), end.said
        assert "Traceback" not in end.said, end.said


def test_commands_that_begin_at_the_same_moment(
    campaign: Campaign, tmp_path: Path, pictures: Path
) -> None:
    """Runs with one output, and one with its own; of one archive; exports; evaluations of a set."""
    real, archive = pictures / "real", pictures / "real.tar.gz"
    observer = pictures / "observer.safetensors"
    rounds = campaign.trials(1, 5)
    for number in range(rounds):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        made = shutil.copytree(pictures / "made", folder / "made")
        unpacked = [folder / f"of-archive{rival}" for rival in range(RIVALS)]
        student = ["--students", "convnet2-w16", "--epochs", 1, "--device", "cpu"]
        commands: list[list[object]] = [
            rded(real, pictures, folder / "alone"),
            *[rded(real, pictures, folder / "set")] * RIVALS,
            *(rded(archive, pictures, out) for out in unpacked),
            *[["export", made, "--to", "parquet", "--out", folder / "exported"]] * RIVALS,
            *[["evaluate", made, "--observer", observer, *student]] * RIVALS,
        ]
        ends = at_once(commands, folder / "said", XDG_CACHE_HOME=str(folder / "cache"))
        check_succeeded(ends[:1])
        check_one_won(ends[1:4])
        check_succeeded(ends[4:7])
        check_one_won(ends[7:10])
        check_succeeded(ends[10:])
        assert hashes(folder / "set") == hashes(folder / "alone")
        assert len([*(folder / "cache").rglob("*.tar")]) == 1
        assert not [*(folder / "cache").rglob("*.part")]
        sets = [hashes(out / "images") for out in unpacked]
        assert sets == sets[:1] * RIVALS
        results = sorted(made.rglob("results-*.json"))
        assert len(results) == RIVALS
        curves = [
            [[run["curve"] for run in row["runs"]] for row in json.loads(file.read_text())["rows"]]
            for file in results
        ]
        assert curves == curves[:1] * RIVALS
        names = {entry.name for entry in folder.iterdir()}
        of_archive = {out.name for out in unpacked}
        assert names == {"made", "alone", "set", "said", "cache", "exported", *of_archive}
    campaign.passed("races", "commands at the same moment", rounds * len(commands))
