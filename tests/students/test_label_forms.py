"""Logits in fewer bits: what is written, and what is read again."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pydream.errors import PydreamError
from pydream.students.config import Bits
from pydream.students.label_forms import LabelForm
from pydream.students.label_schedule import LabelSchedule, in_the_middle
from pydream.students.stored_labels import write_epoch

# float32 arithmetic on logits below 100, of steps of at least 0.01: a code may round the other way
# where a logit is this close to the middle between two.
ROUNDING = 1e-5
# Probabilities in float32 from the same logits in float64.
CLOSE = 1e-6
KINDS: tuple[Bits, ...] = (8, 4)


def random_logits(rows: int, classes: int, scale: float = 5.0) -> torch.Tensor:
    return scale * torch.randn(rows, classes, generator=torch.Generator().manual_seed(rows))


def decoded(stored: dict[str, torch.Tensor], kept: int, bits: int) -> np.ndarray:
    """Read the codes byte by byte, in float64."""
    rows = []
    for row, highest, step in zip(
        stored["codes"].tolist(), stored["highest"].tolist(), stored["step"].tolist(), strict=True
    ):
        codes = row if bits == 8 else [half for byte in row for half in (byte % 16, byte // 16)]
        rows.append([highest - code * step for code in codes[:kept]])
    return np.array(rows)


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (3, 2), (17, 7), (5, 10), (2, 1000)])
def test_no_logit_is_off_by_more_than_half_a_step(bits: Bits, rows: int, classes: int) -> None:
    logits = random_logits(rows, classes) + torch.linspace(-60, 60, rows)[:, None]
    stored = LabelForm(bits=bits).encode(logits, 20.0)
    found = decoded(stored, classes, bits)
    off = np.abs(found - logits.numpy())
    half = stored["step"].double().numpy()[:, None] / 2
    assert (off <= half * (1 + ROUNDING) + ROUNDING).all()
    # The steps are no wider than needed: they reach the lowest logit, and float16 has 11 bits.
    spread = (logits.amax(1) - logits.amin(1)).double().numpy()
    rounded = np.abs(logits.numpy()).max(1) * 2**-10
    assert (half[:, 0] * 2 * (2**bits - 1) <= (spread + rounded) * (1 + 2**-10) + 2**-15).all()


@pytest.mark.parametrize("bits", KINDS)
@pytest.mark.parametrize("classes", [1, 2, 7, 10, 31])
def test_codes_are_read_as_they_were_written(tmp_path: Path, bits: Bits, classes: int) -> None:
    # Logits on the steps themselves: the lowest is all steps below the highest, and comes back.
    most = 2**bits - 1
    steps = torch.randint(0, most + 1, (19, classes), generator=torch.Generator().manual_seed(1))
    steps[:, 0], steps[:, -1] = 0, most if classes > 1 else 0
    logits = 3.5 - steps.float() / 4
    write_epoch(tmp_path / "epoch", logits, form := LabelForm(bits=bits), 20.0)
    stored = load_file(tmp_path / "epoch")
    assert stored["codes"].shape == (19, math.ceil(classes * bits / 8))
    assert torch.equal(form.logits(stored, classes), logits)
    assert form.encode(form.logits(stored, classes), 20.0).keys() == stored.keys()
    again = form.encode(form.logits(stored, classes), 20.0)
    assert all(torch.equal(again[name], stored[name]) for name in stored)


def test_equal_and_extreme_logits_are_held() -> None:
    rows = [[2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [1e-7, 0.0, -1e-7], [60000.0, -60000.0, 1.0]]
    logits = torch.tensor(rows)
    for bits in KINDS:
        form = LabelForm(bits=bits)
        stored = form.encode(logits, 1.0)
        off = (form.logits(stored, 3).double() - logits.double()).abs()
        half = stored["step"].double()[:, None] / 2
        assert (off <= half + 1e-6 + logits.abs().double() * 2**-23).all()


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize(("top_k", "classes"), [(None, 7), (1, 7), (3, 7), (7, 7), (5, 300)])
def test_probabilities_are_those_of_the_logits_that_are_held(
    bits: Bits, top_k: int | None, classes: int
) -> None:
    form, logits = LabelForm(top_k, bits), random_logits(23, classes)
    stored = form.encode(logits, 20.0)
    kept = form.kept(classes)
    held = stored["logits"].double().numpy() if bits == 16 else decoded(stored, kept, bits)
    if top_k is None:
        wanted = np.exp(held / 20)
    else:
        others = stored["others"].double().exp().numpy() / max(classes - kept, 1)
        wanted = np.repeat(others[:, None], classes, 1)
        np.put_along_axis(wanted, stored["classes"].numpy().astype(int), np.exp(held / 20), 1)
    wanted /= wanted.sum(1, keepdims=True)
    found = form.probabilities(stored, classes, 20.0)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), torch.from_numpy(wanted), rtol=0.0, atol=CLOSE)


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("top_k", [None, 1, 10])
@pytest.mark.parametrize("classes", [10, 257, 40000])
def test_files_are_as_large_as_expected(
    tmp_path: Path, bits: Bits, top_k: int | None, classes: int
) -> None:
    form = LabelForm(top_k, bits)
    for rows in (1, 13):
        file = tmp_path / f"epoch-{rows}"
        write_epoch(file, random_logits(rows, classes), form, 20.0)
        stored = load_file(file)
        layout = form.layout(rows, classes)
        assert {name: (one.dtype, tuple(one.shape)) for name, one in stored.items()} == layout
        assert 0 <= form.most_bytes(rows, classes) - file.stat().st_size < 100


@pytest.mark.parametrize("wrong", [math.nan, math.inf, 1e5])
def test_logits_that_are_no_numbers_are_refused(tmp_path: Path, wrong: float) -> None:
    logits = random_logits(3, 4)
    logits[1, 2] = wrong
    with pytest.raises(PydreamError, match="logits that are not numbers, or too large"):
        write_epoch(tmp_path / "epoch-00007.safetensors", logits, LabelForm(bits=4), 20.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("every", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("hard", [0, 1, 4, 9])
def test_epochs_that_share_labels_lie_on_one_side_of_the_hard_ones(every: int, hard: int) -> None:
    epochs = 10
    middle = in_the_middle(hard, epochs)
    assert len(middle) == hard
    schedule = LabelSchedule(every, middle)
    stored = schedule.stored(epochs)
    for epoch in range(epochs):
        shown = schedule.shown(epoch)
        if epoch in middle:
            assert shown == epoch
            continue
        assert shown in stored
        assert 0 <= epoch - shown < every
        assert not set(range(shown, epoch + 1)) & set(middle)
    before, after = (epochs - hard) // 2, epochs - hard - (epochs - hard) // 2
    sides = [before, after] if hard else [epochs]
    assert len(stored) == sum(math.ceil(side / every) for side in sides)
