"""k-means as an estimator, for scikit-learn's arrays and for tensors on any device."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
from torch import Tensor

from pydream import ops
from pydream.formatting import listed
from pydream.ops._checks import as_tensor, check_at_least, check_choice, check_shape
from pydream.ops._problems import check_samples, check_weight_values

_RANDOM_RUNS = 10
"""Number of fits for ``n_init="auto"`` from random samples, as in scikit-learn."""


class KMeans(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    ClusterMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Cluster samples by Lloyd's k-means, started by greedy k-means++.

    The interface is that of scikit-learn's estimators, and of fast_pytorch_kmeans' ``KMeans`` for
    programs that use it. Tensors are clustered on their own device, and results are tensors there;
    for arrays (and data frames, lists), results are arrays. `pydream.ops.kmeans` clusters many
    problems in one call.

    Parameters
    ----------
    n_clusters
        Number of clusters, at most the number of samples.
    max_iter
        Largest number of iterations.
    tol
        A fit ends when the squared movement of the centroids is at most this share of the mean
        variance of the dimensions.
    verbose
        1 prints a line after a fit.
    mode
        ``"euclidean"`` or ``"cosine"``.
    init_method
        ``"k-means++"`` (or ``"kmeans++"``), ``"random"``, or the initial centroids, (k, D).
    n_init
        Number of fits from different starts, of which the one with the smallest inertia is kept; or
        ``"auto"``: 10 with ``"random"``, else 1.
    random_state
        An int gives the same result in every run on one device; None a different one each time.
    precision
        ``"exact"``, or ``"fast"`` for a GPU's tensor cores with centroids in 16 bits.

    Attributes
    ----------
    cluster_centers_
        float32 (k, D); float64 for float64 samples.
    labels_
        int64 (N,), of the samples of the fit.
    inertia_ : float
        Sum of squared distances to the own centroids, weighted by the samples' weights; for
        ``"cosine"`` the sum of 1 − cos.
    n_iter_ : int
        Number of iterations that were run.
    n_features_in_ : int
        Dimension of the samples, D.

    Notes
    -----
    float64 samples are centred before the kernels round them to float32, and integers are converted
    to float64, so that clusters far from the origin are distinguished.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        max_iter: int = 100,
        tol: float = 1e-4,
        verbose: int = 0,
        mode: str = "euclidean",
        init_method: Any = "k-means++",
        *,
        n_init: int | str = 1,
        random_state: Any = None,
        precision: str = "exact",
    ) -> None:
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.mode = mode
        self.init_method = init_method
        self.n_init = n_init
        self.random_state = random_state
        self.precision = precision

    def fit(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        centroids: Any = None,
        *,
        sample_weight: Any = None,
    ) -> KMeans:
        """Find the centroids.

        Parameters
        ----------
        X
            (N, D) samples, a tensor or any input of scikit-learn; finite.
        y
            Ignored; present for scikit-learn. fast_pytorch_kmeans has the centroids in this place:
            here they are given by name.
        centroids
            Initial centroids, (k, D), instead of `init_method`.
        sample_weight
            (N,), weight of each sample; by default 1. Weighted fits use no kernels and are slower:
            see `pydream.ops.kmeans`.

        Returns
        -------
        KMeans
            This estimator.

        Raises
        ------
        TypeError
            If `y` has the shape of centroids, (k, D), and `centroids` are not given.
        ValueError
            In the cases of `pydream.ops.kmeans`.

        Warns
        -----
        ConvergenceWarning
            If fewer distinct clusters than `n_clusters` are found.
        """
        samples = self._samples(X, reset=True)
        self._check(len(samples))
        shape = (self.n_clusters, samples.shape[1])
        if centroids is None and getattr(y, "shape", None) == shape:
            raise TypeError(
                f"y is ignored, and has the shape of centroids, {shape}: give them by name, as "
                "centroids=…"
            )
        weights = self._weights(sample_weight, samples)
        start = self._start(centroids, samples)
        seed, runs = self._seed(), self._runs(start)
        fit = partial(self._cluster, samples, start, weights, max_iter=self.max_iter, tol=self.tol)
        result = fit(seed=seed)
        for run in range(1, runs):
            other = fit(seed=(seed + run) % 2**63)
            if float(other.inertia) < float(result.inertia):
                result = other
        self._centroids = result.centroids
        self.cluster_centers_ = _like(result.centroids, X)
        self.labels_ = _like(result.labels, X)
        self.inertia_ = float(result.inertia)
        self.n_iter_ = int(result.n_iter)
        self._n_features_out = len(result.centroids)
        self._warn_of_few(result.labels)
        if self.verbose >= 1:
            print(
                f"{len(samples)} samples in {self.n_clusters} clusters after {self.n_iter_} "
                f"iterations, inertia {self.inertia_:.6g}"
            )
        return self

    def fit_predict(
        self,
        X: Any,  # noqa: N803
        y: Any = None,
        centroids: Any = None,
        *,
        sample_weight: Any = None,
    ) -> Any:
        """Fit, and return the label of each sample: ``fit(...).labels_``."""
        return self.fit(X, y, centroids, sample_weight=sample_weight).labels_

    def fit_transform(self, X: Any, y: None = None, *, sample_weight: Any = None) -> Any:  # noqa: N803
        """Fit, and return the distances to the centroids: ``fit(...).transform(X)``."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def predict(self, X: Any) -> Any:  # noqa: N803
        """Return the nearest centroid of each sample.

        Parameters
        ----------
        X
            (N, D) samples, on any device.

        Returns
        -------
        Tensor or ndarray
            int64 (N,).
        """
        return _like(self._nearest(self._fitted_samples(X)).labels, X)

    def transform(self, X: Any) -> Any:  # noqa: N803
        """Return the distance of each sample to each centroid.

        Parameters
        ----------
        X
            (N, D) samples, on any device.

        Returns
        -------
        Tensor or ndarray
            (N, k) Euclidean distances, or 1 − cos for ``"cosine"``, computed in float64; float64
            for float64 samples, else float32.

        Raises
        ------
        TypeError, ValueError
            In the cases of `pydream.ops.kmeans`, except samples that are merely too large for it.
        """
        samples = self._fitted_samples(X)
        bad = samples.isfinite().all(dim=1).logical_not().nonzero()[:, 0].tolist()
        if bad:
            rows = "row" if len(bad) == 1 else f"{len(bad):,} rows"
            raise ValueError(f"X must be finite, and is not in {rows}: {listed([*map(str, bad)])}")
        wide, places = samples.double(), self.centroids.to(samples.device).double()
        if self.mode == "cosine":
            lengths = wide.norm(dim=1, keepdim=True)
            if not (lengths > 0).all():
                raise ValueError("X must hold no row of zeros, which has no direction")
            distances = 1 - wide / lengths @ places.t()
        else:
            distances = torch.cdist(wide, places, compute_mode="donot_use_mm_for_euclid_dist")
        kept = samples.dtype if samples.dtype == torch.float64 else torch.float32
        return _like(distances.to(kept), X)

    def score(self, X: Any, y: None = None, *, sample_weight: Any = None) -> float:  # noqa: N803
        """Return minus the inertia of samples, with the centroids of the fit.

        Parameters
        ----------
        X
            (N, D) samples, on any device.
        y
            Ignored; present for scikit-learn.
        sample_weight
            (N,), weight of each sample; by default 1.
        """
        samples = self._fitted_samples(X)
        return -float(self._nearest(samples, self._weights(sample_weight, samples)).inertia)

    @property
    def centroids(self) -> Tensor:
        """The centroids as a tensor, (k, D)."""
        check_is_fitted(self)
        return self._centroids

    def _cluster(
        self,
        samples: Tensor,
        start: str | Tensor,
        weights: Tensor | None,
        *,
        max_iter: int,
        seed: int = 0,
        tol: float = 0.0,
    ) -> ops.KMeansResult:
        return ops.kmeans(
            samples,
            # By the fit's own settings, even if `set_params` has changed them since.
            len(start) if isinstance(start, Tensor) else int(self.n_clusters),
            init=start,
            max_iter=max_iter,
            tol=tol,
            metric=self.mode,
            seed=seed,
            precision=self.precision,
            weights=weights,
        )

    def _nearest(self, samples: Tensor, weights: Tensor | None = None) -> ops.KMeansResult:
        """Return labels and inertia of samples with the centroids of the fit."""
        return self._cluster(samples, self.centroids.to(samples.device), weights, max_iter=0)

    def _samples(self, value: Any, *, reset: bool) -> Tensor:
        """Return the samples as a tensor for the op."""
        if not isinstance(value, Tensor):
            floats = [np.float64, np.float32, np.float16]
            checked = validate_data(self, value, reset=reset, dtype=floats)
            return as_tensor(np.ascontiguousarray(checked), "X")
        given = as_tensor(value, "X").detach()
        if given.dim() != 2:
            raise ValueError(f"X must have shape (N, D), got {tuple(given.shape)}")
        if reset:
            self.n_features_in_ = given.shape[1]
        elif given.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {given.shape[1]} features, but the fit was with {self.n_features_in_}"
            )
        whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        return given.double() if whole else given

    def _fitted_samples(self, value: Any) -> Tensor:
        """Return the samples as a tensor for the op and the fit's centroids."""
        check_is_fitted(self)
        samples = check_samples(self._samples(value, reset=False), None).x
        return samples.double() if self._centroids.dtype == torch.float64 else samples

    def _weights(self, value: Any, samples: Tensor) -> Tensor | None:
        if value is None:
            return None
        if not isinstance(value, Tensor):
            checked = _check_sample_weight(value, np.empty((len(samples), 0)), dtype=np.float64)
            value = torch.from_numpy(checked)
        given = as_tensor(value, "sample_weight").detach()
        weights = given.to(samples.device, torch.float64)
        check_shape(weights, "sample_weight", (len(samples),))
        check_weight_values(weights, "sample_weight", [0, len(samples)])
        return weights

    def _start(self, centroids: Any, samples: Tensor) -> str | Tensor:
        """Return the initial centroids, or the method that chooses them."""
        start, name = self.init_method, "init_method"
        if centroids is not None:
            start, name = centroids, "centroids"
        if isinstance(start, str):
            return "k-means++" if start == "kmeans++" else start
        dtype = torch.float64 if samples.dtype == torch.float64 else torch.float32
        if isinstance(start, Tensor):
            start = as_tensor(start, name)
        given = torch.as_tensor(start, dtype=dtype, device=samples.device).detach()
        check_shape(given, name, (self.n_clusters, samples.shape[1]))
        return given

    def _runs(self, start: str | Tensor) -> int:
        """Return the number of fits to choose from."""
        if self.n_init == "auto":
            return _RANDOM_RUNS if isinstance(start, str) and start == "random" else 1
        if not isinstance(self.n_init, (int, np.integer)):
            raise TypeError(f'n_init must be an int or "auto", got {self.n_init!r}')
        runs = check_at_least(self.n_init, "n_init", 1)
        if runs > 1 and not isinstance(start, str):
            warnings.warn(
                f"n_init={runs} makes one fit, not {runs}, as the first centroids are given",
                RuntimeWarning,
                stacklevel=3,
            )
            return 1
        return runs

    def _check(self, count: int) -> None:
        """Raise for settings that the op would refuse under its own names."""
        check_at_least(self.n_clusters, "n_clusters", 1)
        check_at_least(self.max_iter, "max_iter", 1)
        if self.n_clusters > count:
            raise ValueError(
                f"n_clusters must be at most the number of samples, {count}, got {self.n_clusters}"
            )
        check_choice(self.mode, "mode", ("euclidean", "cosine"))
        if isinstance(self.init_method, str):
            check_choice(self.init_method, "init_method", ("k-means++", "kmeans++", "random"))

    def _warn_of_few(self, labels: Tensor) -> None:
        distinct = int(labels.bincount().count_nonzero())
        if distinct < self.n_clusters:
            warnings.warn(
                f"only {distinct} distinct clusters were found, of n_clusters={self.n_clusters}: "
                "there may be fewer distinct samples than that",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _like(result: Tensor, given: Any) -> Any:
    """Return a result in the type of the samples."""
    return result if isinstance(given, Tensor) else result.cpu().numpy()
