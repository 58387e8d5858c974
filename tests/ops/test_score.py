from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from devices import DEVICE, NOT_ON_FIBERS, ORDERS, as_called, faulty_place, faulty_rows, place

from pydream import ops
from pydream.ops import reference
from pydream.ops._dispatch import warn_reference_once

# A score is a difference of logits, exact in float64, less the logarithm of a sum of
# float32 exponentials (each to 1e-7, and the sum rounded some twenty times), and is
# rounded to float32 itself.
SCORE_ATOL = 1e-6
SCORE_RTOL = 2e-7
# Near zero only the sum of the other exponentials is left. Its terms are 2^z with z, down to
# -108 here, rounded to float32 before: by up to 3.8e-6, so the terms by 2.7e-6.
SURE_RTOL = 4e-6
# torch's log_softmax sums in float32, and subtracts the maximum's float32 logarithm.
REFERENCE_ATOL = 1e-5
REFERENCE_RTOL = 1e-6

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
CLASSES = [1, 2, 3, 10, 15, 16, 17, 19, 64, 100, 1000, 1023, 21841]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def exact_scores(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """log p(label) in float64, the label's own term left out of the sum where it dominates."""
    wide = logits.double()
    own = wide.gather(1, labels.long()[:, None])
    others = torch.exp(wide - own).scatter(1, labels.long()[:, None], 0.0).sum(1)
    return torch.where(
        others < 1,
        -torch.log1p(others),
        torch.log_softmax(wide, 1).gather(1, labels.long()[:, None])[:, 0],
    )


def assert_scores(scores: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
    assert scores.dtype == torch.float32
    torch.testing.assert_close(
        scores.double(), exact_scores(logits, labels), atol=SCORE_ATOL, rtol=SCORE_RTOL
    )


def random_problem(
    rows: int, classes: int, scale: float = 3.0, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 100_003 + classes)
    logits = (torch.randn(rows, classes, generator=generator) * scale).to(dtype)
    return logits, torch.randint(classes, (rows,), generator=generator)


class TestRealismScores:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("classes", CLASSES)
    def test_is_log_softmax_at_the_label(self, classes: int, dtype: torch.dtype, isa: str) -> None:
        logits, labels = random_problem(23, classes, dtype=dtype)
        assert_scores(ops.realism_scores(logits, labels), logits, labels)

    @pytest.mark.parametrize("classes", [2, 19, 100])
    def test_every_position_of_the_label(self, classes: int, isa: str) -> None:
        row, _ = random_problem(1, classes)
        logits, labels = row.expand(classes, classes), torch.arange(classes)
        assert_scores(ops.realism_scores(logits, labels), logits, labels)

    @pytest.mark.parametrize("scale", [1e-3, 30.0, 1e4])
    def test_any_scale(self, scale: float, isa: str) -> None:
        logits, labels = random_problem(64, 333, scale)
        assert_scores(ops.realism_scores(logits, labels), logits, labels)

    def test_largest_finite_logits(self, isa: str) -> None:
        top = torch.finfo(torch.float32).max
        logits = torch.tensor([[top, -top, 0.0], [-top, -top, -top], [top, top, top]])
        scores = ops.realism_scores(logits, torch.tensor([0, 2, 1]))
        torch.testing.assert_close(
            scores, torch.tensor([0.0, -np.log(3.0), -np.log(3.0)], dtype=torch.float32)
        )

    def test_equal_logits(self, isa: str) -> None:
        logits = torch.full((4, 21841), 7.25)
        labels = torch.tensor([0, 1, 21840, 9999])
        assert_scores(ops.realism_scores(logits, labels), logits, labels)

    def test_a_sure_observer_keeps_its_relative_accuracy(self, isa: str) -> None:
        logits, labels = random_problem(200, 100, 1.0)
        margin = torch.linspace(5.0, 75.0, 200)  # at -87.68 an exponential becomes 0
        logits[torch.arange(200), labels] = logits.max(1).values + margin
        scores = ops.realism_scores(logits, labels)
        assert (scores < 0).all()
        torch.testing.assert_close(
            scores.double(), exact_scores(logits, labels), atol=0.0, rtol=SURE_RTOL
        )

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_every_finite_half_precision_number(self, dtype: torch.dtype, isa: str) -> None:
        every = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
        every = every[every.isfinite()]
        if DEVICE == "cuda-on-cpu":  # half of them in each order of the threads
            every = every[ORDERS.index(isa) :: 2]
        logits = torch.zeros(len(every), 37, dtype=dtype)
        logits[:, 5] = every
        logits[:, 35] = every
        labels = torch.full((len(every),), 35)
        assert_scores(ops.realism_scores(logits, labels), logits, labels)

    def test_minus_infinity_is_a_probability_of_zero(self, isa: str) -> None:
        logits = torch.tensor([[-torch.inf, 0.0], [-torch.inf, 0.0]])
        scores = ops.realism_scores(logits, torch.tensor([0, 1]))
        assert scores.tolist() == [-torch.inf, 0.0]

    @pytest.mark.parametrize("classes", [1, 19, 100])
    def test_rows_with_a_stride(self, classes: int, isa: str) -> None:
        wide, labels = random_problem(50, classes + 13)
        logits = wide[::2, 5 : 5 + classes]
        labels = labels[::2] % classes
        assert_scores(ops.realism_scores(logits, labels), logits, labels)

    def test_int32_and_strided_labels(self) -> None:
        logits, labels = random_problem(30, 7)
        expected = ops.realism_scores(logits, labels)
        assert ops.realism_scores(logits, labels.int()).equal(expected)
        assert ops.realism_scores(logits, torch.stack([labels, labels], 1)[:, 0]).equal(expected)

    def test_any_number_of_threads_gives_the_same_bits(self, two_threads: None, isa: str) -> None:
        logits, labels = random_problem(5000, 301)
        torch.set_num_threads(1)
        alone = ops.realism_scores(logits, labels)
        for threads in (2, 3, 8):
            torch.set_num_threads(threads)
            assert ops.realism_scores(logits, labels).equal(alone)

    def test_a_row_depends_on_nothing_else(self) -> None:
        logits, labels = random_problem(40, 111)
        together = ops.realism_scores(logits, labels)
        apart = [ops.realism_scores(logits[i : i + 1], labels[i : i + 1]) for i in range(40)]
        assert together.equal(torch.cat(apart))

    def test_numpy_through_dlpack(self) -> None:
        logits, labels = random_problem(12, 9)
        scores = ops.realism_scores(logits.numpy(), labels.numpy())
        assert isinstance(scores, torch.Tensor)
        assert scores.equal(ops.realism_scores(logits, labels))

    @pytest.mark.parametrize("shape", [(0, 5), (0, 0)])
    def test_empty(self, shape: tuple[int, int]) -> None:
        scores = ops.realism_scores(torch.empty(shape), torch.empty(0, dtype=torch.int64))
        assert scores.shape == (0,)
        assert scores.dtype == torch.float32

    def test_reference_agrees(self) -> None:
        logits, labels = random_problem(60, 113)
        torch.testing.assert_close(
            reference.score.realism_scores(logits, labels),
            ops.realism_scores(logits, labels),
            atol=REFERENCE_ATOL,
            rtol=REFERENCE_RTOL,
        )


class TestBadLogits:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("classes", [1, 5, 16, 40, 1000])
    def test_nan_at_every_kind_of_place(self, classes: int, dtype: torch.dtype, isa: str) -> None:
        logits, labels = random_problem(8, classes, dtype=dtype)
        for column in {0, classes // 2, classes - 1, int(labels[6])}:
            bad = logits.clone()
            bad[6, column] = torch.nan
            with pytest.raises(ValueError, match=r"^logits hold NaN.* in 1 row: 6$"):
                ops.realism_scores(bad, labels)

    @pytest.mark.parametrize("at_label", [False, True])
    def test_plus_infinity(self, at_label: bool, isa: str) -> None:
        logits, labels = random_problem(8, 40)
        logits[3, int(labels[3]) if at_label else int(labels[3]) - 1] = torch.inf
        with pytest.raises(ValueError, match=r"^logits hold NaN, \+inf.* in 1 row: 3$"):
            ops.realism_scores(logits, labels)

    def test_nothing_but_minus_infinity(self, isa: str) -> None:
        logits, labels = random_problem(8, 40)
        logits[[0, 7]] = -torch.inf
        with pytest.raises(ValueError, match="nothing but -inf.*" + faulty_rows(0, 7)):
            ops.realism_scores(logits, labels)

    def test_many_rows_are_counted_and_the_first_named(self, two_threads: None) -> None:
        logits, labels = random_problem(3000, 100)
        logits[10::100, 3] = torch.nan
        rows = (10, 110, 210, 310, 410)
        with pytest.raises(ValueError, match=faulty_rows(*rows, more=True, count=30)):
            ops.realism_scores(logits, labels)
        with pytest.raises(ValueError, match=r"in 30 rows: 10, 110, 210, 310, 410, \.\.\.$"):
            reference.score.realism_scores(logits, labels)

    def test_key_patches_names_the_row_of_the_logits(self) -> None:
        logits, _ = random_problem(20, 6)
        logits[13, 2] = torch.nan
        with pytest.raises(ValueError, match=r"^logits hold NaN.* in 1 row: 13$"):
            ops.key_patches(logits, torch.zeros(4, dtype=torch.int64), 5, 1, 1)

    def test_nan_scores(self) -> None:
        scores = torch.zeros(9, 4)
        scores[2, 3] = scores[8, 0] = torch.nan
        labels = torch.zeros(9, dtype=torch.int64)
        with pytest.raises(ValueError, match="^scores hold NaN " + faulty_rows(2, 8)):
            ops.select_key_patches(scores, labels, 1, 1)
        with pytest.raises(ValueError, match=r"^scores hold NaN in 2 rows: 2, 8$"):
            reference.score.select_key_patches(scores, labels, 1, 1)


LOGITS = torch.zeros(6, 4)
LABELS = torch.zeros(6, dtype=torch.int64)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "message"),
    [
        ("logits", LABELS, TypeError, r"^logits must be a tensor or speak DLPack, got str"),
        (LOGITS.double(), LABELS, TypeError, r"^logits must be float32 .*, got float64"),
        (LOGITS.int(), LABELS, TypeError, r"^logits must be float32 .*, got int32"),
        (LOGITS[0], LABELS, ValueError, r"^logits must have shape \(R, K\), got \(4,\)"),
        (LOGITS[:, ::2], LABELS, ValueError, r"^logits must have contiguous columns.*\(4, 2\)"),
        (LOGITS[:, :0], LABELS, ValueError, r"^logits must have at least one column.*\(6, 0\)"),
        (LOGITS, LABELS[:5], ValueError, r"^labels must be as many as the rows .* 6, got 5"),
        (LOGITS, LABELS[None], ValueError, r"^labels must have shape \(N\), got \(1, 6\)"),
        (LOGITS, LABELS.float(), TypeError, r"^labels must be int64 or int32, got float32"),
        (LOGITS, LABELS + 4, ValueError, r"^labels must lie in 0\.\.3, got 4 at row 0"),
        (LOGITS, LABELS - torch.eye(6).long()[2], ValueError, r"0\.\.3, got -1 at row 2"),
    ],
)
def test_bad_arguments(logits: Any, labels: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=faulty_place(message)):
        ops.realism_scores(logits, labels)


def naive_key_patches(
    scores: torch.Tensor, labels: torch.Tensor, per_class: int, num_classes: int
) -> tuple[list[list[int]], list[list[int]], list[list[float]]]:
    """The contract word for word, in Python's own sort."""
    rows = [sorted((-score, crop) for crop, score in enumerate(row)) for row in scores.tolist()]
    images: list[list[int]] = []
    crops: list[list[int]] = []
    best: list[list[float]] = []
    for label in range(num_classes):
        found = sorted(
            (rows[i][0][0], i)
            for i in range(len(rows))
            if labels[i] == label and rows[i][0][0] < np.inf
        )[:per_class]
        missing = per_class - len(found)
        images.append([i for _, i in found] + [-1] * missing)
        crops.append([rows[i][0][1] for _, i in found] + [-1] * missing)
        best.append([-score for score, _ in found] + [-np.inf] * missing)
    return images, crops, best


def assert_selection(
    found: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    scores: torch.Tensor,
    labels: torch.Tensor,
    per_class: int,
    num_classes: int,
) -> None:
    image, crop, score = naive_key_patches(scores, labels, per_class, num_classes)
    assert [tensor.dtype for tensor in found] == [torch.int64, torch.int64, torch.float32]
    assert found[0].tolist() == image
    assert found[1].tolist() == crop
    assert found[2].tolist() == score


SELECTIONS = [
    # images, crops, per_class, num_classes
    (1, 1, 1, 1),
    (300, 5, 10, 1),
    (300, 5, 10, 10),
    (300, 5, 300, 1),
    (57, 3, 20, 7),  # too few in every class
    (57, 1, 2, 60),  # classes without any image
    (1000, 2, 7, 19),
]


class TestSelectKeyPatches:
    @pytest.mark.parametrize(("images", "crops", "per_class", "num_classes"), SELECTIONS)
    @pytest.mark.parametrize("levels", [3, 40, None], ids=["ties", "some-ties", "no-ties"])
    def test_is_the_contract(
        self, images: int, crops: int, per_class: int, num_classes: int, levels: int | None
    ) -> None:
        generator = torch.Generator().manual_seed(images + per_class)
        scores = -torch.rand(images, crops, generator=generator) * 9
        if levels is not None:
            scores = (scores * levels).round() / levels
        labels = torch.randint(num_classes, (images,), generator=generator)
        arguments = (scores, labels, per_class, num_classes)
        assert_selection(ops.select_key_patches(*arguments), *arguments)
        assert_selection(reference.score.select_key_patches(*arguments), *arguments)

    def test_more_images_than_a_block_of_a_gpu_keeps(self) -> None:
        """A class has more, and so have its selected images."""
        scores = torch.randn(8300, 1, generator=torch.Generator().manual_seed(8))
        arguments = (scores, torch.zeros(8300, dtype=torch.int64), 1100, 1)
        assert_selection(ops.select_key_patches(*arguments), *arguments)

    @pytest.mark.parametrize("bad", [False, True])
    def test_so_many_images_that_a_gpu_groups_them_by_class(self, bad: bool) -> None:
        """One class has more than a block keeps, and one has none."""
        images, classes = 45_600, 4
        draw = np.random.default_rng(9)
        labels = draw.choice(classes, images, p=[0.2, 0.0, 0.1, 0.7])
        scores = -draw.integers(0, 400, (images, 2)).astype(np.float32)
        scores[::7] = -np.inf
        given = torch.from_numpy(scores), torch.from_numpy(labels)
        if bad:
            given[1][[11, 45_000]] = torch.tensor([classes, -1])
            with pytest.raises(ValueError, match=faulty_place(r"^labels .* at row 11")):
                ops.select_key_patches(*given, 50, classes)
            return
        image, crop, score = ops.select_key_patches(*given, 50, classes)
        best, which = scores.max(1), scores.argmax(1)
        for label in range(classes):
            members = np.flatnonzero((labels == label) & (best > -np.inf))
            chosen = members[np.lexsort((members, -best[members]))][:50]
            missing = [-1] * (50 - len(chosen))
            assert image[label].tolist() == [*chosen, *missing]
            assert crop[label].tolist() == [*which[chosen], *missing]
            assert score[label, : len(chosen)].tolist() == best[chosen].tolist()

    def test_ties_go_to_the_lower_crop_and_image(self) -> None:
        scores = torch.zeros(6, 3)
        scores[:3, 0] = -1.0
        image, crop, score = ops.select_key_patches(scores, torch.zeros(6, dtype=torch.int64), 6, 1)
        assert image.tolist() == [[0, 1, 2, 3, 4, 5]]
        assert crop.tolist() == [[1, 1, 1, 0, 0, 0]]
        assert score.tolist() == [[0.0] * 6]

    def test_zero_ties_with_minus_zero(self) -> None:
        scores = torch.tensor([[-0.0, 0.0], [0.0, -0.0], [-0.0, -0.0]])
        for select in (ops.select_key_patches, reference.score.select_key_patches):
            image, crop, _ = select(scores, torch.zeros(3, dtype=torch.int64), 3, 1)
            assert image.tolist() == [[0, 1, 2]]
            assert crop.tolist() == [[0, 0, 0]]

    def test_scores_of_either_sign_and_any_size(self) -> None:
        column = torch.tensor([-1e-40, 3e38, -3e38, 0.0, 1e-40, torch.inf, -1.0, 2.0])
        labels = torch.zeros(8, dtype=torch.int64)
        arguments = (column[:, None], labels, 8, 1)
        assert_selection(ops.select_key_patches(*arguments), *arguments)
        assert_selection(reference.score.select_key_patches(*arguments), *arguments)

    def test_minus_infinity_is_no_crop(self) -> None:
        inf = torch.inf
        scores = torch.tensor([[-inf, -2.0], [-inf, -inf], [-1.0, -inf]])
        labels = torch.zeros(3, dtype=torch.int64)
        for select in (ops.select_key_patches, reference.score.select_key_patches):
            image, crop, score = select(scores, labels, 3, 1)
            assert image.tolist() == [[2, 0, -1]]
            assert crop.tolist() == [[0, 1, -1]]
            assert score.tolist() == [[-1.0, -2.0, -inf]]

    @pytest.mark.parametrize("shape", [(0, 5), (0, 0), (4, 0)])
    def test_empty(self, shape: tuple[int, int]) -> None:
        labels = torch.zeros(shape[0], dtype=torch.int64)
        for select in (ops.select_key_patches, reference.score.select_key_patches):
            image, crop, score = select(torch.empty(shape), labels, 2, 3)
            assert image.equal(torch.full((3, 2), -1))
            assert crop.equal(torch.full((3, 2), -1))
            assert score.equal(torch.full((3, 2), -torch.inf))

    def test_rows_with_a_stride(self) -> None:
        wide = -torch.rand(40, 11, generator=torch.Generator().manual_seed(5))
        scores, labels = wide[::2, 3:7], torch.arange(20) % 3
        arguments = (scores, labels, 4, 3)
        assert_selection(ops.select_key_patches(*arguments), *arguments)

    def test_any_number_of_threads_gives_the_same(self, two_threads: None, on_cpu: None) -> None:
        generator = torch.Generator().manual_seed(1)
        scores = (-torch.rand(60_000, 3, generator=generator) * 50).round()
        labels = torch.randint(200, (60_000,), generator=generator)
        expected = reference.score.select_key_patches(scores, labels, 11, 200)
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found = ops.select_key_patches(scores, labels, 11, 200)
            assert all(a.equal(b) for a, b in zip(found, expected, strict=True))

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((LOGITS.half(), LABELS, 1, 1), TypeError, r"^scores must be float32, got float16"),
            ((LOGITS[0], LABELS, 1, 1), ValueError, r"^scores must have shape \(N, M\)"),
            ((LOGITS[:, ::2], LABELS, 1, 1), ValueError, r"^scores must have contiguous columns"),
            ((LOGITS, LABELS[1:], 1, 1), ValueError, r"^labels .* rows of scores, 6, got 5"),
            ((LOGITS, LABELS, 0, 1), ValueError, r"^per_class must be at least 1, got 0"),
            ((LOGITS, LABELS, 1.5, 1), TypeError, r"^per_class must be an int, got float"),
            ((LOGITS, LABELS, 1, 0), ValueError, r"^num_classes must be at least 1, got 0"),
            ((LOGITS, LABELS + 2, 1, 2), ValueError, r"^labels must lie in 0\.\.1, got 2 at row 0"),
        ],
    )
    def test_bad_arguments(
        self, arguments: tuple[Any, ...], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=faulty_place(message)):
            ops.select_key_patches(*arguments)


class TestKeyPatches:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("images", "crops", "per_class", "num_classes"), SELECTIONS)
    def test_is_scores_then_selection(
        self,
        images: int,
        crops: int,
        per_class: int,
        num_classes: int,
        dtype: torch.dtype,
        isa: str,
    ) -> None:
        logits, _ = random_problem(images * crops, num_classes + 2, dtype=dtype)
        labels = torch.arange(images) * 7 % num_classes
        found = ops.key_patches(logits, labels, crops, per_class, num_classes)
        assert isinstance(found, ops.KeyPatches)
        scores = ops.realism_scores(logits, labels.repeat_interleave(crops)).view(images, crops)
        assert_selection(found, scores, labels, per_class, num_classes)

    def test_is_eager_argmin_and_argsort(self, isa: str) -> None:
        logits, _ = random_problem(1500, 1000)
        labels = torch.arange(300) % 10
        found = ops.key_patches(logits, labels, 5, 6, 10)
        loss = -exact_scores(logits, labels.repeat_interleave(5)).view(300, 5)
        best, crop = loss.min(1)
        for label in range(10):
            members = (labels == label).nonzero()[:, 0]
            order = members[best[members].argsort(stable=True)][:6]
            assert found.image[label].equal(order)
            assert found.crop[label].equal(crop[order])

    def test_reference_agrees(self) -> None:
        logits, _ = random_problem(600, 30)
        labels = torch.arange(200) % 7
        expected = reference.score.key_patches(logits, labels, 3, 5, 7)
        found = ops.key_patches(logits, labels, 3, 5, 7)
        assert found.image.equal(expected[0])
        assert found.crop.equal(expected[1])
        torch.testing.assert_close(
            found.score, expected[2], atol=REFERENCE_ATOL, rtol=REFERENCE_RTOL
        )

    def test_rows_with_a_stride_and_numpy(self) -> None:
        wide, _ = random_problem(60, 25)
        logits, labels = wide[:, 4:14], torch.arange(20) % 5
        expected = ops.key_patches(logits.contiguous(), labels, 3, 2, 5)
        for found in (
            ops.key_patches(logits, labels, 3, 2, 5),
            ops.key_patches(logits.numpy(), labels.int().numpy(), 3, 2, 5),
        ):
            assert all(a.equal(b) for a, b in zip(found, expected, strict=True))

    def test_empty(self) -> None:
        found = ops.key_patches(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), 5, 2, 3)
        assert found.image.equal(torch.full((3, 2), -1))
        assert found.score.equal(torch.full((3, 2), -torch.inf))

    def test_an_image_without_probability_is_never_chosen(self) -> None:
        logits = torch.zeros(4, 2)
        logits[2:, 0] = -torch.inf
        found = ops.key_patches(logits, torch.tensor([0, 0]), 2, 2, 2)
        assert found.image.tolist() == [[0, -1], [-1, -1]]

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ((LOGITS, LABELS[:2], 0, 1, 1), ValueError, r"^num_crops must be at least 1, got 0"),
            ((LOGITS, LABELS[:2], 3, 0, 1), ValueError, r"^per_class must be at least 1, got 0"),
            ((LOGITS, LABELS[:2], 3, 1, 0), ValueError, r"^num_classes must be at least 1, got 0"),
            ((LOGITS, LABELS[:2], 4, 1, 1), ValueError, r"num_crops = 4 rows an image, got 6 rows"),
            ((LOGITS, LABELS, 3, 1, 1), ValueError, r"^labels must be as many as .*, 2, got 6"),
            ((LOGITS, LABELS[:2] + 4, 3, 1, 9), ValueError, r"0\.\.3, got 4 at row 0"),
            ((LOGITS, LABELS[:2] + 3, 3, 1, 3), ValueError, r"0\.\.2, got 3 at row 0"),
            ((LOGITS.double(), LABELS[:2], 3, 1, 1), TypeError, r"^logits must be float32"),
            ((LOGITS[:, ::2], LABELS[:2], 3, 1, 1), ValueError, r"^logits must have contiguous"),
        ],
    )
    def test_bad_arguments(
        self, arguments: tuple[Any, ...], error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=faulty_place(message)):
            ops.key_patches(*arguments)


@pytest.mark.parametrize("bad", [-1, 4])
def test_reference_refuses_the_same_labels(bad: int) -> None:
    labels = LABELS.clone()
    labels[4] = bad
    message = rf"^labels must lie in 0\.\.3, got {bad} at row 4$"
    with pytest.raises(ValueError, match=faulty_place(message)):
        ops.realism_scores(LOGITS, labels)
    with pytest.raises(ValueError, match=message):
        reference.score.realism_scores(LOGITS, labels)


@NOT_ON_FIBERS
class TestTorchLibrary:
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_opcheck(self, dtype: torch.dtype) -> None:
        logits, labels = place(random_problem(12, 19, dtype=dtype))
        torch.library.opcheck(torch.ops.pydream.realism_scores, (logits, labels))
        torch.library.opcheck(torch.ops.pydream.key_patches, (logits, labels[:4], 3, 2, 19))
        torch.library.opcheck(torch.ops.pydream.realism_scores, (logits[::2, 3:], labels[:6] % 16))

    def test_opcheck_selection(self) -> None:
        scores, labels = place(random_problem(12, 5))
        torch.library.opcheck(torch.ops.pydream.select_key_patches, (scores, labels, 2, 5))

    def test_compiles_whole(self) -> None:
        rate, choose = as_called("realism_scores"), as_called("select_key_patches")
        rate_and_choose = as_called("key_patches")

        def both(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ops.KeyPatches]:
            scores = rate(logits * 2, labels.repeat_interleave(3))
            return scores + 1, rate_and_choose(logits * 2, labels, 3, 2, 19)

        def chosen(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            image: torch.Tensor = choose(scores, labels, 2, 19).image
            return image + 1

        compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=True)
        compiled_choice = torch.compile(chosen, fullgraph=True, backend="aot_eager")
        for rows in (12, 24):
            logits, labels = place(random_problem(rows, 19))
            labels = labels[: rows // 3]
            scores, found = compiled(logits, labels)
            expected_scores, expected = both(logits, labels)
            assert scores.equal(expected_scores)
            assert all(a.equal(b) for a, b in zip(found, expected, strict=True))
            rated = expected_scores.view(-1, 3)
            assert compiled_choice(rated, labels).equal(chosen(rated, labels))

    def test_compiled_code_raises_the_same_errors(self, on_cpu: None) -> None:
        compiled = torch.compile(ops.realism_scores, fullgraph=True, backend="aot_eager")
        with pytest.raises(ValueError, match=r"got 4 at row 0"):
            compiled(LOGITS, LABELS + 4)


def test_fallback_warns_once_for_a_device() -> None:
    device = torch.device("cuda", 63)
    with pytest.warns(RuntimeWarning, match="no compiled kernels for cuda"):
        warn_reference_once(device)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_reference_once(device)
