from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rded_runs import hashes, settings, stopped_after
from scoring_limits import limits
from sklearn.cluster import KMeans

from pydream.cli import parsing
from pydream.data import open_source
from pydream.errors import PydreamError
from pydream.models import load_observer
from pydream.rded import RdedConfig, distill
from pydream.rded.config import SelectionRule
from pydream.rded.patches import PatchMaker, preselect
from pydream.rded.scoring import score
from pydream.rded.selection import Selection, feature_map, select_images
from pydream.sets.distilled import load_set
from pydream.timeline import Stopwatch

CLUSTERED: tuple[SelectionRule, ...] = ("diverse", "representative")
OTHERS: tuple[SelectionRule, ...] = ("median", "hard", *CLUSTERED)


def some_scores(count: int, seed: int = 0) -> np.ndarray:
    """Scores with ties, and images that could not be used."""
    rng = np.random.default_rng(seed)
    scores = -rng.integers(0, max(2, count // 2), count).astype(np.float32) / 7
    scores[:: count // 3] = -np.inf
    return scores


def ranked(scores: np.ndarray) -> list[int]:
    """The usable images by a plain sort: highest score first, then the earlier image."""
    usable = [row for row in range(len(scores)) if scores[row] > -np.inf]
    return sorted(usable, key=lambda row: (-scores[row], row))


@pytest.mark.parametrize("count", [1, 4, 5, 12])
@pytest.mark.parametrize("share", [1.0, 0.55, 0.01])
def test_rules_on_scores_are_slices_of_a_sorted_list(count: int, share: float) -> None:
    rule: SelectionRule
    classes = [some_scores(size, size) for size in (17, 24, 31)]
    for rule in ("median", "hard"):
        chosen = select_images(rule, classes, [], [count] * 3, share=share)
        for scores, selection in zip(classes, chosen, strict=True):
            pool = ranked(scores)
            pool = pool[: max(count, round(share * len(pool)))]
            left_out = len(pool) - count
            first = {"median": left_out // 2, "hard": left_out}[rule]
            assert selection.rows.tolist() == pool[first : first + count]
            assert selection.filled == 0


def clustered_features(sizes: list[int], clusters: int, seed: int) -> list[torch.Tensor]:
    """Features in clear clusters of different sizes, each of which any k-means finds."""
    rng = np.random.default_rng(seed)
    centres = 50 * rng.standard_normal((clusters, 9))
    found = []
    for size in sizes:
        labels = np.r_[np.arange(clusters), rng.integers(0, clusters, size - clusters)]
        noise = rng.standard_normal((size, 9))
        found.append(torch.from_numpy(centres[rng.permutation(labels)] + noise).float())
    return found


@pytest.mark.parametrize("rule", CLUSTERED)
@pytest.mark.parametrize("share", [1.0, 0.7])
def test_rules_on_clusters_agree_with_scikit_learn(rule: SelectionRule, share: float) -> None:
    count = 6
    features = clustered_features([40, 61, 80], count, 3)
    classes = [some_scores(len(of_class), 1) for of_class in features]
    chosen = select_images(rule, classes, features, [count] * 3, share=share, seed=5)
    for scores, of_class, selection in zip(classes, features, chosen, strict=True):
        pool = ranked(scores)
        pool = pool[: round(share * len(pool))]
        fit = KMeans(count, n_init=10, random_state=0).fit(of_class.double().numpy()[pool])
        away = np.linalg.norm(of_class.numpy()[pool] - fit.cluster_centers_[fit.labels_], axis=1)
        wanted = []
        for cluster in range(count):
            members = np.flatnonzero(fit.labels_ == cluster)
            best = members[0] if rule == "diverse" else members[away[members].argmin()]
            wanted.append(pool[best])
        assert sorted(selection.rows.tolist()) == sorted(wanted)
        assert selection.rows.tolist() == [row for row in pool if row in wanted]
        assert selection.filled == 0


def alike(one: Selection, other: Selection) -> bool:
    return one.rows.tolist() == other.rows.tolist() and one.filled == other.filled


@pytest.mark.parametrize("rule", CLUSTERED)
def test_a_class_is_chosen_the_same_alone_and_among_others(
    rule: SelectionRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    features = [torch.from_numpy(rng.random((size, 33), np.float32)) for size in (50, 7, 23, 41)]
    classes = [some_scores(len(of_class)) for of_class in features]
    counts = [5, 6, 3, 8]
    together = select_images(rule, classes, features, counts)
    assert [len(selection.rows) for selection in together] == [5, 3, 3, 8]  # 3 of its 7 can be used
    for scores, of_class, count, selection in zip(classes, features, counts, together, strict=True):
        assert alike(select_images(rule, [scores], [of_class], [count])[0], selection)
    monkeypatch.setattr("pydream.rded.selection._BUFFER", 60 * 33)  # two classes at a time
    assert all(map(alike, select_images(rule, classes, features, counts), together))


@pytest.mark.parametrize("rule", CLUSTERED)
def test_fewer_distinct_features_than_clusters_are_filled_up_by_realism(
    rule: SelectionRule,
) -> None:
    scores = np.array([-5, -1, -np.inf, -4, -2, -3, -6, -7], dtype=np.float32)
    features = torch.tensor([0, 0, 9, 0, 5, 5, 0, 0]).float()[:, None].expand(-1, 3).contiguous()
    [selection] = select_images(rule, [scores], [features], [4])
    assert selection.rows.tolist() == [1, 4, 5, 3]  # 1 and 4 by clusters, then the most realistic
    assert selection.filled == 2


@pytest.mark.parametrize("rule", OTHERS)
def test_a_class_with_too_few_usable_images_gives_all_of_them(rule: SelectionRule) -> None:
    scores = np.array([-3, -np.inf, -1, -1], dtype=np.float32)
    features = torch.eye(4)
    for count in (3, 4, 9):
        [selection] = select_images(rule, [scores], [features], [count])
        assert selection.rows.tolist() == [2, 3, 0]
    [nothing] = select_images(rule, [np.full(4, -np.inf, np.float32)], [features], [3])
    assert len(nothing.rows) == 0


@pytest.mark.parametrize("megabytes", [1, 256])
def test_features_come_with_unchanged_scores_and_are_those_of_the_best_crops(
    folder: Path, random_observer: Path, megabytes: int
) -> None:
    (folder / "cat" / "04.jpg").write_bytes(b"broken")
    observer = load_observer(random_observer)
    maker = PatchMaker(open_source(folder), observer, side=32, factor=2, crops=3)
    selection = preselect(maker.source, 300, 0)
    run = functools.partial(
        score, maker, selection, np.ones(44, dtype=bool), limits(megabytes=megabytes), Stopwatch()
    )
    plain, featured = [*run()], [*run(features=True)]
    for one, other in zip(plain, featured, strict=True):
        assert one.features is None
        assert torch.equal(one.scores, other.scores)
    scores = torch.cat([batch.scores for batch in featured])
    features = torch.cat([batch.features for batch in featured if batch.features is not None])
    for candidate in (0, 7, 27, 43):
        index = [int(selection.indices[candidate])]
        patches = maker.shown(index, [maker.source.image(index[0])])
        wanted = observer.features(patches)[int(scores[candidate].argmax())]
        torch.testing.assert_close(features[candidate], wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="session")
def chosen_by() -> dict[str, Any]:
    return {"ipc": 1, "factor": 2, "realistic_share": 0.8, "allow_skipped": 0.1}


@pytest.mark.parametrize("rule", OTHERS)
def test_same_bytes_however_the_run_is_organised_and_honest_provenance(
    folder: Path,
    random_observer: Path,
    tmp_path: Path,
    chosen_by: dict[str, Any],
    rule: SelectionRule,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "bee" / "03.png").write_bytes(b"broken")

    def config(name: str, **changes: Any) -> RdedConfig:
        return settings(
            folder, random_observer, tmp_path / name, select=rule, **{**chosen_by, **changes}
        )

    usual = distill(config("usual"))
    reference = hashes(usual.path)
    small = {"batch_size": 1, "workers": 1, "memory_budget": 1}
    assert hashes(distill(config("small", **small)).path) == reference
    # A run that is stopped after two classes, then continued.
    with monkeypatch.context() as patch:
        stopped_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            distill(config("resumed"))
    assert hashes(distill(config("resumed", resume=True)).path) == reference
    distilled = load_set(usual.path)
    assert distilled.provenance is not None
    rows = distilled.provenance.to_pylist()
    assert len({row["source"] for row in rows}) == len(rows) == 16
    assert "bee/03.png" not in {row["source"] for row in rows}
    # Each patch is cut again from its box, alone, and found in its cell.
    source = open_source(folder)
    maker = PatchMaker(source, load_observer(random_observer), side=32, factor=2, crops=5)
    for row in rows[::5]:
        index = source.keys.index(row["source"])
        image = source.image(index)
        boxes = maker.boxes([index], [image])[0].tolist()
        crop = boxes.index([row[name] for name in ("top", "left", "height", "width")])
        [patch_cut] = maker.cut([index], [image], [crop])
        top, left = (16 * place for place in divmod(row["cell"], 2))
        cell = distilled.images[row["class"] + row["image"]][top : top + 16, left : left + 16]
        assert torch.equal(cell.permute(2, 0, 1), patch_cut.pixels)
    report = (usual.path / "report.html").read_text(encoding="utf-8")
    assert f"{rule}: th" in report
    assert "among the most realistic 0.8 of a class" in report


def test_rules_choose_what_their_names_say_among_whole_images(
    folder: Path, random_observer: Path, tmp_path: Path
) -> None:
    """Over whole images, each of one patch, the means of the scores follow the rules."""
    means = {}
    rules: tuple[SelectionRule, ...] = ("realistic", *OTHERS)
    for rule in rules:
        config = settings(
            folder, random_observer, tmp_path / rule, select=rule, crops=0, ipc=1, cells="matched"
        )
        provenance = load_set(distill(config).path).provenance
        assert provenance is not None
        means[rule] = float(np.mean(provenance["score"].to_numpy()))
    assert means["hard"] < means["median"] < means["realistic"]
    assert means["hard"] < means["diverse"] < means["realistic"]
    usual = settings(folder, random_observer, tmp_path / "x").identity()
    assert not {"select", "realistic_share"} & usual.keys()  # or older sets could not be resumed


def test_a_class_of_equal_pictures_is_filled_up_and_the_run_says_so(
    folder: Path, random_observer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *others = sorted((folder / "dog").glob("*.png"))
    for file in others:
        file.write_bytes(first.read_bytes())
    for file in (folder / "dog").glob("*.jpg"):
        file.unlink()
    config = settings(folder, random_observer, tmp_path / "set", ipc=1, select="diverse", crops=0)
    result = distill(config)
    assert result.manifest.filled == 3
    assert "3 of 16 key patches were chosen by realism" in capsys.readouterr().err
    report = (result.path / "report.html").read_text(encoding="utf-8")
    assert "3 filled up by realism" in report


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"realistic_share": 0.5}, "--realistic-share limits what other rules choose among"),
        ({"realistic_share": 0.0, "select": "hard"}, "realistic_share must be above 0"),
        ({"realistic_share": 1.5, "select": "hard"}, "realistic_share must be 0 to 1, got 1.5"),
    ],
    ids=str,
)
def test_a_share_that_means_nothing_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        RdedConfig("photos", "observer.pt", **changes)


def test_the_command_passes_the_rule_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[RdedConfig] = []

    def noted(config: RdedConfig) -> None:
        given.append(config)
        raise PydreamError("seen")

    monkeypatch.setattr("pydream.rded.distill", noted)
    monkeypatch.setattr(
        "sys.argv",
        [
            *("pydream", "rded", "photos", "--observer", "o.pt"),
            *("--select", "diverse", "--realistic-share", "0.5"),
        ],
    )
    with pytest.raises(PydreamError, match="seen"):
        parsing.run()
    assert given == [
        dataclasses.replace(RdedConfig("photos", "o.pt"), select="diverse", realistic_share=0.5)
    ]


def test_a_map_keeps_as_much_of_the_distances_as_two_dimensions_can() -> None:
    """By the eigenvalues of the covariance, and up to the sign of an axis."""
    features = torch.randn(40, 7, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 8)
    chosen = np.arange(40) % 3 == 0
    drawn = feature_map(features, chosen)
    assert (len(drawn["chosen"]), len(drawn["others"])) == (14, 26)
    points = np.empty((40, 2))
    points[chosen], points[~chosen] = drawn["chosen"], drawn["others"]
    values, axes = np.linalg.eigh(np.cov(features.double().numpy().T))
    expected = (features.double().numpy() - features.double().numpy().mean(0)) @ axes[:, [-1, -2]]
    assert np.allclose(np.abs(points), np.abs(expected), atol=1e-4)  # four decimals
    assert np.allclose(points.var(axis=0, ddof=1), values[[-1, -2]], rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 5), (3, 1), (4, 3)])
def test_a_map_of_few_images_or_features_lacks_components(shape: tuple[int, int]) -> None:
    features = torch.ones(shape)
    drawn = feature_map(features, np.arange(shape[0]) == 0)
    assert drawn == {"chosen": [[0, 0]], "others": [[0, 0]] * (shape[0] - 1)}


@pytest.mark.parametrize("rule", ["diverse", "median"])
def test_the_report_maps_the_features_that_a_rule_goes_by(
    folder: Path, random_observer: Path, tmp_path: Path, rule: SelectionRule
) -> None:
    path = distill(settings(folder, random_observer, tmp_path / "set", select=rule)).path
    page = (path / "report.html").read_text()
    assert ("The choice of patches" in page) == (rule == "diverse")
