from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from rded_runs import hashes, settings, shuffled_observer
from torch_states import all_states

from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.models import build_model, save_weights
from pydream.rded import RdedConfig, distill
from pydream.sets.distilled import load_set

DEADLINE = 600  # seconds for a command that takes a few, on a machine however busy
CLASSES = ("ant", "bee", "cat", "dog")  # as the fixture `folder` has them

# The command line, which gets a signal between its first two classes.
STOPPED = """
import os, sys
from pydream.cli import main
from pydream.sets.writer import SetWriter

by, written, write_class = int(sys.argv.pop(1)), [], SetWriter.write_class

def write_and_stop(writer, *given, **options):
    if written:
        writer.settle()  # the files of the first class
        os.kill(os.getpid(), by)
    written.append(write_class(writer, *given, **options))

SetWriter.write_class = write_and_stop
main()
"""


@pytest.fixture
def undisturbed(folder: Path, random_observer: Path, tmp_path: Path) -> dict[str, str]:
    return hashes(distill(settings(folder, random_observer, tmp_path / "undisturbed")).path)


def test_a_set_is_whole_and_says_what_it_is(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    result = distill(settings(folder, random_observer, str(tmp_path / "set")))
    distilled = load_set(result.path)
    assert distilled.images.shape == (8, 32, 32, 3)
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert distilled.class_names == CLASSES
    assert distilled.provenance is not None
    assert distilled.provenance.num_rows == 8 * 4
    assert distilled.manifest.as_json() == json.loads((result.path / "manifest.json").read_text())
    assert sorted(file.name for file in result.path.iterdir()) == [
        "contact_sheet.png",
        "images",
        "manifest.json",
        "provenance.parquet",
        "report.html",
        "run.json",
    ]
    assert not (tmp_path / "set.partial").exists()


def test_every_source_image_gives_one_patch_and_the_best_come_first(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    rows = pq.read_table(
        distill(settings(folder, random_observer, tmp_path / "set")).path / "provenance.parquet"
    ).to_pylist()
    for label, name in enumerate(CLASSES):
        mine = [row for row in rows if row["class"] == label]
        assert len({row["source"] for row in mine}) == len(mine) == 8
        assert all(row["source"].startswith(f"{name}/") for row in mine)
        ranked = sorted(mine, key=lambda row: row["cell"] * 2 + row["image"])
        assert [row["score"] for row in ranked] == sorted(
            (row["score"] for row in ranked), reverse=True
        )


@pytest.mark.parametrize(
    "changes",
    [{"batch_size": 1}, {"batch_size": 4096}, {"workers": 1}, {"workers": 7}, {"memory_budget": 1}],
    ids=str,
)
def test_same_bytes_however_the_run_is_organised(
    folder: Path,
    random_observer: Path,
    tmp_path: Path,
    undisturbed: dict[str, str],
    changes: dict[str, int],
) -> None:
    again = distill(settings(folder, random_observer, tmp_path / "again", **changes))
    assert hashes(again.path) == undisturbed


def test_the_state_of_torch_does_not_matter(
    folder: Path, random_observer: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    with all_states():
        found = distill(settings(folder, random_observer, tmp_path / "other"))
    assert hashes(found.path) == undisturbed


def test_another_seed_gives_another_set(
    folder: Path, random_observer: Path, tmp_path: Path, undisturbed: dict[str, str]
) -> None:
    other = distill(settings(folder, random_observer, tmp_path / "other", seed=1))
    assert hashes(other.path)["provenance.parquet"] != undisturbed["provenance.parquet"]


def command_line(folder: Path, observer: Path, out: Path) -> list[object]:
    return [
        folder, "--observer", observer, "--out", out, "--ipc", 2, "--factor", 2,
        "--allow-weak-observer",
    ]  # fmt: skip


def stopped_before_a_second_class(*arguments: object, by: signal.Signals) -> tuple[int, str]:
    """Run the command up to where it has written a class; return its exit status and its words."""
    pytest.importorskip("tyro", reason="the command line needs tyro")
    ended = subprocess.run(
        [sys.executable, "-c", STOPPED, str(int(by)), "rded", *map(str, arguments)],
        capture_output=True,
        text=True,
        # A shell without job control starts what it sends to the background deaf to Ctrl-C.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        timeout=DEADLINE,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_a_killed_run_resumes_to_the_same_bytes(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    """Killed after the first class, then stopped by Ctrl-C after the second."""
    whole, out = tmp_path / "whole", tmp_path / "set"
    # As many crops as fill passes of the observer, so that classes are scored one after another.
    distill(settings(folder, random_observer, whole, crops=64))
    command = [*command_line(folder, random_observer, out), "--crops", 64, "--batch-size", 1]
    state = tmp_path / "set.partial" / "state"
    status, _ = stopped_before_a_second_class(*command, by=signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert [file.name for file in state.glob("0000*.json")] == ["00000.json"]
    status, errors = stopped_before_a_second_class(*command, "--resume", by=signal.SIGINT)
    assert status == 130, errors
    assert "--resume" in errors
    assert sorted(file.name for file in state.glob("0000*.json")) == ["00000.json", "00001.json"]
    assert not out.exists()
    distill(settings(folder, random_observer, out, crops=64, resume=True))
    assert hashes(out) == hashes(whole)
    assert not (tmp_path / "set.partial").exists()


def test_resume_does_not_score_finished_classes_again(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    config = settings(folder, random_observer, tmp_path / "set", batch_size=1, allow_skipped=0.03)
    (folder / "bee" / "00.jpg").write_bytes(b"broken")
    whole = settings(folder, random_observer, tmp_path / "whole", allow_skipped=0.03)
    reference = hashes(distill(whole).path)
    (folder / "dog" / "00.jpg").write_bytes(b"broken")
    for resume in (False, True):  # of which the second finds the first image in the records
        with pytest.raises(PydreamError, match=r"2 of 44 .* bee/00\.jpg \(.* dog/00\.jpg \("):
            distill(dataclasses.replace(config, resume=resume))
    assert not (tmp_path / "set").exists()
    images = tmp_path / "set.partial" / "set" / "images"
    written = {file: file.stat().st_mtime_ns for file in images.glob("0000[0-2]/*")}
    assert len(written) == 6
    allowed = settings(folder, random_observer, tmp_path / "set", resume=True, allow_skipped=0.1)
    result = distill(allowed)
    for file, time_written in written.items():
        moved = result.path / "images" / file.relative_to(images)
        assert moved.stat().st_mtime_ns == time_written
    again = hashes(result.path)
    for label in range(3):
        name = f"images/{label:05d}/00000.png"
        assert again[name] == reference[name]
    assert result.manifest.skipped is not None
    assert [image["key"] for image in result.manifest.skipped] == ["bee/00.jpg", "dog/00.jpg"]


def test_resume_with_other_settings_is_refused_with_the_difference(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    (folder / "dog" / "00.jpg").write_bytes(b"broken")
    with pytest.raises(PydreamError, match="cannot be read"):
        distill(settings(folder, random_observer, tmp_path / "set"))
    with pytest.raises(PydreamError, match="--resume"):
        distill(settings(folder, random_observer, tmp_path / "set"))
    with pytest.raises(PydreamError, match="crops 5 then, 6 now"):
        distill(settings(folder, random_observer, tmp_path / "set", crops=6, resume=True))


def test_resume_of_a_finished_set_changes_nothing(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    config = settings(folder, random_observer, tmp_path / "set")
    distill(config)
    before = hashes(tmp_path / "set")
    again = distill(settings(folder, random_observer, tmp_path / "set", resume=True))
    assert again.path == tmp_path / "set"
    assert hashes(tmp_path / "set") == before
    with pytest.raises(PydreamError, match="other settings"):
        distill(settings(folder, random_observer, tmp_path / "set", resume=True, seed=9))


def test_an_observer_in_memory_and_images_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 255, (30, 16, 16, 3), dtype=np.uint8))
    source = open_source((images, torch.arange(30) % 3))
    model = build_model("convnet1-w8", num_classes=3, side=16)
    result = distill(
        settings(Path("memory"), Path("model"), tmp_path / "set", factor=1, side=16),
        source=source,
        observer=model,
    )
    assert load_set(result.path).images.shape == (6, 16, 16, 3)


def test_digits_with_a_good_observer(digits_observer: Path, tmp_path: Path) -> None:
    result = distill(
        RdedConfig(
            source="digits", observer=str(digits_observer), out=tmp_path / "set", preselect=40
        )
    )
    assert result.manifest.observer is not None
    assert result.manifest.observer["top1"] > 0.8
    assert result.manifest.observer["held_out"] == "test split"
    rows = pq.read_table(result.path / "provenance.parquet").to_pylist()
    # The best crops are those the observer is sure of: log p near 0, far above chance (-2.3).
    assert np.mean([row["score"] for row in rows]) > -0.3


def test_an_observer_with_its_classes_in_another_order(
    digits_observer: Path, tmp_path: Path
) -> None:
    order = [3, 1, 4, 0, 5, 9, 2, 6, 8, 7]
    file = tmp_path / "shuffled.safetensors"
    shuffled_observer(file, digits_observer, order)
    config: dict[str, Any] = {
        "source": "digits",
        "observer": str(file),
        "out": tmp_path / "set",
        "preselect": 40,
    }
    with pytest.raises(
        PydreamError,
        match=r"where chance is 10\.0%: its classes are in another order: try --class-order infer",
    ):
        distill(RdedConfig(**config))
    assert not (tmp_path / "set").exists()
    result = distill(RdedConfig(**{**config, "out": tmp_path / "inferred"}, class_order="infer"))
    assert result.manifest.observer is not None
    assert result.manifest.observer["class_order"] == [order.index(c) for c in range(10)]
    straight = distill(
        RdedConfig(
            source="digits",
            observer=str(digits_observer),
            out=tmp_path / "straight",
            preselect=40,
        )
    )
    inferred = load_set(result.path)
    assert torch.equal(inferred.images, load_set(straight.path).images)


def test_an_unusable_image_is_skipped_counted_and_listed(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    (folder / "ant" / "00.jpg").write_bytes((folder / "ant" / "00.jpg").read_bytes()[:300])
    result = distill(settings(folder, random_observer, tmp_path / "set", allow_skipped=0.1))
    assert result.manifest.skipped is not None
    assert [image["key"] for image in result.manifest.skipped] == ["ant/00.jpg"]
    rows = pq.read_table(result.path / "provenance.parquet").to_pylist()
    assert "ant/00.jpg" not in {row["source"] for row in rows}


def test_images_smaller_than_a_patch_are_enlarged_and_counted(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    for key, shape in (("bee/01.png", (5, 40, 3)), ("dog/02.jpg", (1, 1, 3))):
        Image.fromarray(np.full(shape, 99, dtype=np.uint8)).save(folder / key)
    result = distill(settings(folder, random_observer, tmp_path / "set", ipc=2))
    assert result.manifest.skipped == []
    assert result.manifest.enlarged == 2
    assert "2 source images smaller than a patch (16 pixels)" in (
        result.path / "report.html"
    ).read_text(encoding="utf-8")
    every = settings(folder, random_observer, tmp_path / "all", ipc=11, factor=1)
    rows = pq.read_table(distill(every).path / "provenance.parquet").to_pylist()
    small = {row["source"]: row for row in rows}["dog/02.jpg"]
    assert [small[name] for name in ("top", "left", "height", "width")] == [0, 0, 1, 1]
    pixels = load_set(tmp_path / "all").images.flatten(1)
    assert (pixels.float().std(dim=1) == 0).sum() >= 1  # of one colour, as its one pixel


def test_a_set_begun_by_a_version_that_refused_small_images_is_gone_on_with(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    config = settings(folder, random_observer, tmp_path / "set")
    made = distill(config)
    older = json.loads((made.path / "manifest.json").read_text())
    older["config"]["upscale"] = False
    (made.path / "manifest.json").write_text(json.dumps(older))
    again = dataclasses.replace(config, resume=True)
    assert distill(again).manifest.as_json() == older
    with pytest.raises(PydreamError, match=r"other settings .*crops 5 then, 6 now.*another --out"):
        distill(dataclasses.replace(again, crops=6))


def test_the_native_canvas_scores_the_patch_alone(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("resnet18-modified", num_classes=4, side=32)
    file = tmp_path / "resnet.safetensors"
    save_weights(model, file, {"arch": "resnet18-modified", "side": "32"})
    native = distill(settings(folder, file, tmp_path / "native", canvas="native", preselect=8))
    padded = distill(settings(folder, file, tmp_path / "padded", preselect=8))
    assert native.manifest.config is not None
    assert native.manifest.config["canvas"] == "native"
    scores = [
        pq.read_table(run.path / "provenance.parquet")["score"].to_numpy()
        for run in (native, padded)
    ]
    assert not np.allclose(scores[0], scores[1])


@pytest.mark.parametrize("image_format", ["webp", "jpeg"])
def test_other_image_formats(
    folder: Path, random_observer: Path, tmp_path: Path, image_format: str
) -> None:
    lossless = distill(settings(folder, random_observer, tmp_path / "png"))
    lossy = distill(
        settings(folder, random_observer, tmp_path / "lossy", image_format=image_format, quality=95)
    )
    difference = (
        load_set(lossless.path).images.float() - load_set(lossy.path).images.float()
    ).abs()
    assert 0 < difference.mean() < 12  # noise is the hardest content for a lossy format


def test_nothing_of_the_users_is_touched(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work")
    with pytest.raises(PydreamError, match="not a distilled set of ours"):
        distill(settings(folder, random_observer, out))
    assert (out / "thesis.txt").read_text() == "three years of work"
    distill(settings(folder, random_observer, tmp_path / "set"))
    with pytest.raises(PydreamError, match="already holds a distilled set"):
        distill(settings(folder, random_observer, tmp_path / "set"))
    stranger = tmp_path / "other.partial"
    stranger.mkdir()
    (stranger / "notes").write_text("mine")
    for resume in (False, True):
        with pytest.raises(PydreamError, match="not a partial set"):
            distill(settings(folder, random_observer, tmp_path / "other", resume=resume))
    assert (stranger / "notes").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1, got 0"),
        ({"factor": 0}, "factor must be at least 1, got 0"),
        ({"crops": -1}, "crops must be at least 0"),
        ({"ipc": 3}, r"class ant has 11 images, fewer than the 12 .*--ipc 2 --factor 2"),
        ({"factor": 33}, "factor 33 is above the side"),
        ({"allow_weak_observer": False}, "where chance is 25.0%: give the observer"),
        ({"quality": 0}, "quality must be 1 to 100"),
        ({"observer": "missing.pt"}, r"missing\.pt"),
        ({"arch": "convnet3"}, "convnet3"),
        ({"arch": "resnet18"}, "resnet18"),
    ],
    ids=str,
)
def test_bad_settings(
    folder: Path, random_observer: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PydreamError, match=message) as caught:
        distill(settings(folder, random_observer, tmp_path / "set", **changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "set").exists()


def test_an_observer_of_another_class_count(folder: Path, tmp_path: Path) -> None:
    model = build_model("convnet2-w16", num_classes=5, side=32)
    file = tmp_path / "five.safetensors"
    save_weights(model, file, {"arch": "convnet2-w16", "side": "32"})
    with pytest.raises(PydreamError, match=r"observer has 5 classes, .* has 4"):
        distill(settings(folder, file, tmp_path / "set"))


def test_scores_that_are_no_numbers(folder: Path, random_observer: Path, tmp_path: Path) -> None:
    model: Any = build_model("convnet2-w16", num_classes=4, side=32)
    with torch.no_grad():
        model.classifier.weight[0] = 3e38  # whose products with features are infinite
    file = tmp_path / "damaged.safetensors"
    save_weights(model, file, {"arch": "convnet2-w16", "side": "32"})
    with pytest.raises(PydreamError, match=r"scores of ant/00\.jpg are not numbers"):
        distill(settings(folder, file, tmp_path / "set"))


def test_a_class_of_unreadable_images(folder: Path, random_observer: Path, tmp_path: Path) -> None:
    for file in (folder / "bee").iterdir():
        file.write_bytes(b"not an image")
    with pytest.raises(PydreamError, match="class bee has no readable image"):
        distill(settings(folder, random_observer, tmp_path / "set", allow_skipped=1.0))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(
    folder: Path, random_observer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        with open("/dev/full", "wb") as handle:
            return handle.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(PydreamError, match=r"No space left on device.*--resume"):
            distill(settings(folder, random_observer, tmp_path / "set"))
    assert not (tmp_path / "set").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with pytest.raises(PydreamError, match="cannot be written"):
        distill(settings(folder, random_observer, locked / "set"))


def test_an_output_below_a_file(folder: Path, random_observer: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PydreamError, match="file is not a folder: give another --out"):
        distill(settings(folder, random_observer, tmp_path / "file" / "set"))
