from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import cluster
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import parametrize_with_checks

import pydream
from pydream import ops

# As of scikit-learn's own KMeans: a weight moves the random draws of the start.
FAILED_CHECKS = {
    "check_sample_weight_equivalence_on_dense_data": "a weight is not a repeated sample"
}


@parametrize_with_checks(  # type: ignore[untyped-decorator]
    [pydream.KMeans(n_clusters=3)], expected_failed_checks=lambda estimator: FAILED_CHECKS
)
def test_is_an_estimator(estimator: BaseEstimator, check: Callable[[BaseEstimator], None]) -> None:
    check(estimator)


# Between sums of squares of float32 values and of the same in float64.
ROUNDING = 1e-6


def clumps() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    return places.repeat(20, 1) + torch.randn(60, 2, generator=generator)


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.numpy(), lambda x: x.double()])
def test_fits_tensors_and_arrays_alike(convert: Callable[[Any], Any]) -> None:
    x = clumps()
    given = convert(x)
    model = pydream.KMeans(3, random_state=1)
    labels = model.fit_predict(given)
    expected = ops.kmeans(x, 3, seed=1)
    assert type(labels) is type(given)
    assert type(model.cluster_centers_) is type(given)
    assert np.array_equal(labels, expected.labels)
    if model.centroids.dtype == torch.float64:
        torch.testing.assert_close(
            model.centroids, expected.centroids.double(), rtol=ROUNDING, atol=ROUNDING
        )
        assert model.inertia_ == pytest.approx(float(expected.inertia), rel=ROUNDING)
    else:
        assert model.centroids.equal(expected.centroids)
        assert model.inertia_ == float(expected.inertia)
    assert model.n_iter_ == int(expected.n_iter)
    assert np.array_equal(model.predict(given), labels)
    assert model.predict(given[:1]).tolist() == [int(labels[0])]  # fewer samples than clusters


def test_is_called_like_fast_pytorch_kmeans() -> None:
    x = clumps()
    start = x[:3].clone()
    model = pydream.KMeans(n_clusters=3, mode="euclidean", max_iter=50, verbose=0)
    labels = model.fit_predict(x, centroids=start)
    assert labels.equal(torch.arange(3).repeat(20))
    assert model.centroids.equal(ops.kmeans(x, 3, init=start).centroids)
    for fit in (model.fit, model.fit_predict):  # its second argument, which scikit-learn ignores
        with pytest.raises(TypeError, match=r"of centroids, \(3, 2\): give them by name, as centr"):
            fit(x, start)
        fit(x, torch.arange(60))
        fit(x, start, start)
    kmeanspp = pydream.KMeans(3, init_method="kmeans++", random_state=0).fit(x)
    assert kmeanspp.labels_.equal(ops.kmeans(x, 3).labels)


def test_cosine_takes_the_direction() -> None:
    x = clumps()[20:] + 1
    model = pydream.KMeans(2, mode="cosine", random_state=0)
    assert np.array_equal(model.fit_predict(x * 7), model.fit_predict(x))


def far_away(kind: str) -> np.ndarray:
    """Three clumps that float32 cannot tell apart where they lie."""
    generator = np.random.default_rng(0)
    if kind == "seconds":
        times = np.repeat([0.0, 60.0, 120.0], 40) + generator.normal(0, 5, 120)
        return (1.7e9 + times)[:, None]
    if kind == "whole seconds":
        return far_away("seconds").astype(np.int64)
    places = np.repeat([[0.0, 0.0], [2.0, 1.0], [0.0, 3.0]], 40, 0)
    moved: np.ndarray = places + np.array([445000.0, 4627000.0])
    return moved + generator.normal(0, 0.1, (120, 2))


@pytest.mark.parametrize("convert", [lambda x: x, torch.from_numpy])
@pytest.mark.parametrize("kind", ["seconds", "whole seconds", "metres"])
def test_far_from_the_origin_as_scikit_learn(kind: str, convert: Callable[[Any], Any]) -> None:
    x = far_away(kind)
    start = x[[0, 40, 80]].astype(np.float64)
    ours = pydream.KMeans(3, init_method=start, tol=0.0).fit(convert(x))
    theirs = cluster.KMeans(3, init=start, n_init=1, tol=0).fit(x)
    assert np.array_equal(ours.labels_, theirs.labels_)
    assert np.asarray(ours.cluster_centers_).dtype == np.float64
    # What the samples' distances from their middle, 100 at most, lose in float32.
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=0, atol=1e-5)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-5)
    assert np.array_equal(ours.predict(convert(x[::7])), theirs.predict(x[::7]))
    # Not scikit-learn's: its products of far places leave errors of 0.07 here.
    exact = np.linalg.norm(x[:, None] - np.asarray(ours.cluster_centers_), axis=2)
    np.testing.assert_allclose(ours.transform(convert(x)), exact, rtol=1e-9, atol=1e-9)
    truth = np.repeat([0, 1, 2], 40)
    drawn = pydream.KMeans(3, random_state=0).fit(convert(x))
    assert adjusted_rand_score(truth, np.asarray(drawn.labels_)) == 1.0


def test_a_fit_in_float64_predicts_float32_and_the_other_way_round() -> None:
    x = clumps()
    wide, narrow = (pydream.KMeans(3, random_state=0).fit(samples) for samples in (x.double(), x))
    assert wide.predict(x).equal(narrow.predict(x.double()))
    assert wide.transform(x).dtype == torch.float64
    assert narrow.transform(x).dtype == torch.float32


def test_transform_and_score_are_scikit_learns() -> None:
    x = clumps().numpy()
    start, weights = x[:3].copy(), np.linspace(0.5, 2, len(x))
    ours = pydream.KMeans(3, init_method=start).fit(x)
    theirs = cluster.KMeans(3, init=start, n_init=1).fit(x)
    np.testing.assert_allclose(ours.transform(x), theirs.transform(x), rtol=1e-4, atol=1e-4)
    assert ours.score(x) == pytest.approx(theirs.score(x), rel=1e-5)
    assert ours.score(x, sample_weight=weights) == pytest.approx(
        theirs.score(x, sample_weight=weights), rel=1e-5
    )
    assert ours.score(x) == pytest.approx(-ours.inertia_)
    fitted = clone(ours).fit_transform(x)
    assert np.array_equal(fitted, ours.transform(x))
    assert list(ours.get_feature_names_out()) == ["kmeans0", "kmeans1", "kmeans2"]


def test_transform_in_cosine_is_what_the_inertia_sums() -> None:
    x = clumps()[20:] + 1
    model = pydream.KMeans(2, mode="cosine", random_state=0).fit(x)
    distances = model.transform(x * 5)
    assert distances.argmin(1).equal(model.labels_)
    assert float(distances.amin(1).sum()) == pytest.approx(model.inertia_, rel=1e-4)
    with pytest.raises(ValueError, match="no row of zeros"):
        model.transform(x * 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_are_scikit_learns(dtype: type[np.floating[Any]]) -> None:
    generator = np.random.default_rng(1)
    x = generator.normal(size=(150, 4)).astype(dtype)
    weights = generator.uniform(0, 3, 150) * (generator.uniform(size=150) > 0.2)
    start = x[:6].copy()
    ours = pydream.KMeans(6, init_method=start, tol=0.0).fit(x, sample_weight=weights)
    theirs = cluster.KMeans(6, init=start, n_init=1, tol=0, max_iter=100)
    theirs.fit(x, sample_weight=weights)
    assert np.array_equal(ours.labels_, theirs.labels_)
    np.testing.assert_allclose(ours.cluster_centers_, theirs.cluster_centers_, rtol=0, atol=1e-5)
    assert ours.inertia_ == pytest.approx(theirs.inertia_, rel=1e-5)
    again = clone(ours).fit(torch.from_numpy(x), sample_weight=torch.from_numpy(weights))
    assert np.array_equal(again.labels_.numpy(), ours.labels_)
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(150\), got \(3,\)"):
        clone(ours).fit(torch.from_numpy(x), sample_weight=torch.ones(3))


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.numpy()])
def test_bad_weights_are_refused_by_the_name_that_they_are_given_under(
    convert: Callable[[Any], Any],
) -> None:
    x, model = clumps(), pydream.KMeans(3, random_state=0).fit(clumps())
    negative = torch.ones(60)
    negative[4] = -1
    for call in (clone(model).fit, model.score):
        with pytest.raises(
            ValueError, match=r"^sample_weight must be finite and not negative, got -1\.0 at row 4$"
        ):
            call(convert(x), sample_weight=convert(negative))
        # scikit-learn refuses an array of zeros itself.
        zero = r"^sample_weight must not all be zero$|^Sample weights must .* non-zero"
        with pytest.raises(ValueError, match=zero):
            call(convert(x), sample_weight=convert(torch.zeros(60)))


def test_settings_changed_after_a_fit_do_not_reach_predict() -> None:
    x = clumps()
    model = pydream.KMeans(3, random_state=0).fit(x)
    labels, score = model.predict(x), model.score(x)
    model.set_params(n_clusters=7, max_iter=1, tol=-1.0)
    assert model.predict(x).equal(labels)
    assert model.score(x) == score


def test_more_fits_are_as_good_as_the_best_of_them() -> None:
    x = torch.randn(120, 2, generator=torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"n_clusters": 9, "init_method": "random", "random_state": 5}
    alone = [pydream.KMeans(**{**options, "random_state": 5 + i}).fit(x) for i in range(10)]
    best = min(alone, key=lambda model: model.inertia_)
    for n_init in (10, "auto"):
        together = pydream.KMeans(n_init=n_init, **options).fit(x)
        assert together.centroids.equal(best.centroids)
        assert together.labels_.equal(best.labels_)
    assert pydream.KMeans(**options).fit(x).inertia_ == alone[0].inertia_
    with pytest.warns(RuntimeWarning, match="n_init=3 makes one fit"):
        pydream.KMeans(3, init_method=x[:3], n_init=3).fit(x)
    for n_init in (0, "all"):
        with pytest.raises((TypeError, ValueError), match="n_init must be"):
            pydream.KMeans(3, n_init=n_init).fit(x)


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.numpy()])
def test_fewer_clusters_than_asked_for_are_warned_of(convert: Callable[[Any], Any]) -> None:
    x = convert(torch.tensor([[0.0], [1.0]]).repeat(5, 1))
    with pytest.warns(ConvergenceWarning, match="only 2 distinct clusters .* n_clusters=4"):
        pydream.KMeans(4, random_state=0).fit(x)
    with pytest.warns(ConvergenceWarning):
        cluster.KMeans(4, n_init=1).fit(np.asarray(x))


def test_verbose_says_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    pydream.KMeans(3, verbose=1, random_state=0).fit(clumps())
    assert capsys.readouterr().out.startswith("60 samples in 3 clusters after ")


@pytest.mark.parametrize(
    ("options", "x", "message"),
    [
        (
            {"n_clusters": 61},
            clumps(),
            "n_clusters must be at most the number of samples, 60, got 61",
        ),
        ({"n_clusters": 0}, clumps(), "n_clusters must be at least 1, got 0"),
        ({"max_iter": 0}, clumps(), "max_iter must be at least 1, got 0"),
        ({"mode": "l1"}, clumps(), "mode must be one of euclidean, cosine, got 'l1'"),
        ({"init_method": "gaussian"}, clumps(), "init_method must be one of k-means"),
        ({"init_method": np.zeros((2, 2))}, clumps(), r"init_method must have shape \(3, 2\)"),
        ({}, clumps()[0], r"X must have shape \(N, D\)"),
    ],
)
def test_refuses(options: dict[str, Any], x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pydream.KMeans(**{"n_clusters": 3, **options}).fit(x)


@pytest.mark.parametrize("value", ["foo", 2.5, None])
def test_n_init_is_a_number_or_auto(value: str | float | None) -> None:
    with pytest.raises(TypeError, match=f'n_init must be an int or "auto", got {value!r}'):
        pydream.KMeans(3, n_init=value).fit(clumps())  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["fit", "predict", "transform", "score"])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda x: x.to_sparse(), TypeError, "X must be a dense tensor, got layout sparse_coo"),
        (lambda x: x.to("meta"), TypeError, "X must be a dense tensor, got a meta tensor"),
        (lambda x: x.to(torch.complex64), ValueError, "x must be floating point, got complex64"),
        (lambda x: x.bool(), ValueError, "x must be floating point, got bool"),
        (lambda x: torch.cat([x, x.new_full((1, 2), math.nan)]), ValueError, r"(?i)x must be fin"),
        (lambda x: torch.cat([x, x.new_tensor([[1, math.inf]])]), ValueError, r"rows?: 60"),
    ],
    ids=["sparse", "meta", "complex", "bool", "NaN", "infinite"],
)
def test_every_method_refuses_the_same_tensors(
    method: str,
    change: Callable[[torch.Tensor], torch.Tensor],
    error: type[Exception],
    message: str,
) -> None:
    for fitted in (clumps(), clumps().double()):
        model = pydream.KMeans(3, random_state=0)
        if method != "fit":
            model.fit(fitted)
        with pytest.raises(error, match=message):
            getattr(model, method)(change(clumps()))


@pytest.mark.parametrize("name", ["centroids", "sample_weight"])
def test_what_comes_beside_the_samples_has_values_too(name: str) -> None:
    given = clumps()[:3] if name == "centroids" else torch.ones(60)
    for odd in (given.to("meta"), given.to_sparse()):
        beside: dict[str, Any] = {name: odd}
        with pytest.raises(TypeError, match=f"{name} must be a dense tensor"):
            pydream.KMeans(3).fit(clumps(), **beside)


def test_predict_asks_for_a_fit_and_its_features() -> None:
    model = pydream.KMeans(3)
    with pytest.raises(NotFittedError):
        model.predict(clumps())
    model.fit(clumps())
    with pytest.raises(ValueError, match="X has 1 features, but the fit was with 2"):
        model.predict(clumps()[:, :1])


def test_no_seed_is_another_each_time() -> None:
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    model = pydream.KMeans(20, max_iter=1)
    assert len({clone(model).fit(x).inertia_ for _ in range(4)}) > 1


def test_the_package_has_an_estimator_and_no_function_beside() -> None:
    with pytest.raises(AttributeError, match="no attribute 'kmeans'"):
        pydream.kmeans  # type: ignore[attr-defined]  # noqa: B018
