"""CuPy's arrays go in and come out without a copy, and its streams are waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import as_called

from pydream.ops._checks import as_tensor

cp: Any = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

REPOSITORY = Path(__file__).resolve().parents[2]
# Both devices sum in float32, in another order.
SAME_PIXELS = 1e-5
SAME_SCORES = 1e-5


def run(name: str, *arguments: Any, **options: Any) -> Any:
    """Call an op as a user does: what is under test is where its arguments lie."""
    return as_called(name)(*arguments, **options)


def photographs() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in ((31, 19), (64, 111))]


BOXES = np.array([[0, 0, 31, 19], [3, 4, 7, 5], [10, 11, 50, 100], [0, 0, 1, 1]], dtype=np.int32)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "float16", "float32"])
def test_no_copy_in_and_out(dtype: str) -> None:
    array = cp.ones((5, 7), dtype=dtype)
    tensor = as_tensor(array, "array")
    assert tensor.is_cuda
    assert tensor.data_ptr() == array.data.ptr
    assert cp.from_dlpack(tensor).data.ptr == array.data.ptr


def test_strides_are_taken_as_they_are() -> None:
    array = cp.arange(40, dtype=cp.float32).reshape(5, 8)[:, 1:4]
    labels = cp.zeros(5, dtype=cp.int64)
    wanted = run("realism_scores", cp.asnumpy(array), np.zeros(5, dtype=np.int64))
    got = cp.from_dlpack(run("realism_scores", array, labels))
    np.testing.assert_allclose(cp.asnumpy(got), wanted.numpy(), atol=SAME_SCORES)


def test_crop_resize() -> None:
    images = [cp.asarray(image) for image in photographs()]
    patches = run("crop_resize", images, cp.asarray(BOXES), 17, canvas=20)
    assert patches.is_cuda
    taken = cp.from_dlpack(patches)
    assert taken.data.ptr == patches.data_ptr()
    wanted = run("crop_resize", photographs(), BOXES, 17, canvas=20)
    np.testing.assert_allclose(cp.asnumpy(taken), wanted.numpy(), atol=SAME_PIXELS)


def test_scores_and_key_patches() -> None:
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((24, 10)).astype(np.float32)
    labels = np.repeat(np.arange(8) % 3, 3)
    scores = run("realism_scores", cp.asarray(logits), cp.asarray(labels))
    wanted = run("realism_scores", logits, labels)
    np.testing.assert_allclose(scores.cpu().numpy(), wanted.numpy(), atol=SAME_SCORES)
    for name, arguments, rest in (
        ("key_patches", (logits, labels[::3].copy()), (3, 2, 3)),
        ("select_key_patches", (wanted.numpy().reshape(8, 3), labels[::3].copy()), (2, 3)),
    ):
        got = run(name, *map(cp.asarray, arguments), *rest)
        expected = run(name, *arguments, *rest)
        assert all(tensor.is_cuda for tensor in got)
        assert got.image.cpu().tolist() == expected.image.tolist()
        assert got.crop.cpu().tolist() == expected.crop.tolist()


def test_collage() -> None:
    patches = np.random.default_rng(2).integers(0, 256, (2, 8, 3, 9, 9), dtype=np.uint8)
    got = run("collage", cp.asarray(patches), 2, 19)
    assert torch.equal(got.cpu(), run("collage", patches, 2, 19))


def test_sizes_of_images_may_lie_on_the_gpu() -> None:
    sizes = np.array([[31, 19], [64, 111]])
    boxes = run("random_crop_boxes", cp.asarray(sizes), 3, seed=5)
    assert torch.equal(boxes.cpu(), run("random_crop_boxes", sizes, 3, seed=5))


def test_streams_wait_for_one_another() -> None:
    """What CuPy queues on its stream before an op, the op sees; and the other way round."""
    image = cp.zeros((64, 64, 3), dtype=cp.uint8)
    boxes = cp.asarray([[0, 0, 64, 64]], dtype=cp.int32)
    cp.cuda.Device().synchronize()
    big = cp.ones((4096, 4096), dtype=cp.float32)
    with cp.cuda.Stream(non_blocking=True) as stream:
        for _ in range(20):
            big = big @ big * 1e-4
        image += (big[0, 0] * 0 + 255).astype(cp.uint8)
        own = torch.cuda.Stream()
        with torch.cuda.stream(own):
            patches = run("crop_resize", [image], boxes, 64, dtype=torch.uint8)
            total = cp.from_dlpack(patches).astype(cp.int64).sum()
        stream.synchronize()
    assert int(total) == 255 * 64 * 64 * 3


def test_arrays_on_gpu_and_cpu_together() -> None:
    with pytest.raises(ValueError, match="boxes is on cpu, but images is on cuda"):
        run("crop_resize", [cp.asarray(photographs()[0])], BOXES[:1], 8)


def test_the_example_runs() -> None:
    # A program is told of its own folder only, and pydream may be built in place.
    path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "examples" / "cupy_patches.py")],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("is the surest") == 3
