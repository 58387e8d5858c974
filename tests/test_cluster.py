from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import pydream
from pydream import ops


@parametrize_with_checks([pydream.KMeans(n_clusters=3)])  # type: ignore[untyped-decorator]
def test_is_an_estimator(estimator, check):
    check(estimator)


def clumps() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([[0.0, 0.0], [20.0, 0.0], [0.0, 20.0]])
    return places.repeat(20, 1) + torch.randn(60, 2, generator=generator)


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.numpy(), lambda x: x.double()])
def test_fits_tensors_and_arrays_alike(convert):
    x = clumps()
    given = convert(x)
    model = pydream.KMeans(3, random_state=1)
    labels = model.fit_predict(given)
    expected = ops.kmeans(x, 3, seed=1)
    assert type(labels) is type(given)
    assert type(model.cluster_centers_) is type(given)
    assert np.array_equal(labels, expected.labels)
    assert model.centroids.equal(expected.centroids)
    assert model.inertia_ == float(expected.inertia)
    assert model.n_iter_ == int(expected.n_iter)
    assert np.array_equal(model.predict(given), labels)
    assert model.predict(given[:1]).tolist() == [int(labels[0])]  # fewer samples than clusters


def test_is_called_like_fast_pytorch_kmeans():
    x = clumps()
    start = x[:3].clone()
    model = pydream.KMeans(n_clusters=3, mode="euclidean", max_iter=50, verbose=0)
    labels = model.fit_predict(x, centroids=start)
    assert labels.equal(torch.arange(3).repeat(20))
    assert model.centroids.equal(ops.kmeans(x, 3, init=start).centroids)
    kmeanspp = pydream.KMeans(3, init_method="kmeans++", random_state=0).fit(x)
    assert kmeanspp.labels_.equal(ops.kmeans(x, 3).labels)


def test_cosine_takes_the_direction():
    x = clumps()[20:] + 1
    model = pydream.KMeans(2, mode="cosine", random_state=0)
    assert np.array_equal(model.fit_predict(x * 7), model.fit_predict(x))


def test_verbose_says_how_it_went(capsys):
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
def test_refuses(options, x, message):
    with pytest.raises(ValueError, match=message):
        pydream.KMeans(**{"n_clusters": 3, **options}).fit(x)


def test_predict_asks_for_a_fit_and_its_features():
    model = pydream.KMeans(3)
    with pytest.raises(NotFittedError):
        model.predict(clumps())
    model.fit(clumps())
    with pytest.raises(ValueError, match="X has 1 features, but the fit was with 2"):
        model.predict(clumps()[:, :1])


def test_no_seed_is_another_each_time():
    x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    model = pydream.KMeans(20, max_iter=1)
    assert len({clone(model).fit(x).inertia_ for _ in range(4)}) > 1


def test_import_does_not_bring_scikit_learn():
    code = "import sys, pydream; assert 'sklearn' not in sys.modules; pydream.KMeans"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'kmeans'"):
        pydream.kmeans  # noqa: B018
