"""k-means as an estimator, for scikit-learn's arrays and for tensors on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pydream import ops
from pydream.ops._checks import check_at_least, check_shape
from pydream.ops._problems import check_choice


class KMeans(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """Cluster samples by Lloyd's k-means, started by greedy k-means++.

    Called like scikit-learn's estimators, and like fast_pytorch_kmeans' ``KMeans`` in a program
    that uses that. Tensors are worked on where they are, and results are tensors there; for arrays
    (and data frames, lists) they are arrays. :func:`pydream.ops.kmeans` clusters many problems in
    one call.

    Parameters
    ----------
    n_clusters
        How many clusters, at most as many as samples.
    max_iter
        How often centroids move at most.
    tol
        A fit ends when the squared movement of the centroids is at most this share of the mean
        variance of the dimensions.
    verbose
        1 prints a line after a fit.
    mode
        ``"euclidean"`` or ``"cosine"``.
    init_method
        ``"k-means++"`` (or ``"kmeans++"``), ``"random"``, or the first centroids, (k, D).
    random_state
        An int gives the same result on every run on one device; None another each time.
    precision
        ``"exact"``, or ``"fast"`` for a GPU's tensor cores with centroids in 16 bits.

    Attributes
    ----------
    cluster_centers_
        float32 (k, D).
    labels_
        int64 (N,), of the samples of the fit.
    inertia_ : float
        Sum of squared distances to the own centroids; in ``"cosine"`` of 1 − cos.
    n_iter_ : int
        How often centroids moved.
    n_features_in_ : int
        D.

    Notes
    -----
    Samples in float64 are rounded to float32.
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
        random_state: Any = None,
        precision: str = "exact",
    ) -> None:
        self.n_clusters = n_clusters
        self.max_iter = max_iter
        self.tol = tol
        self.verbose = verbose
        self.mode = mode
        self.init_method = init_method
        self.random_state = random_state
        self.precision = precision

    def fit(self, X: Any, y: None = None, centroids: Any = None) -> KMeans:  # noqa: N803
        """Find the centroids.

        Parameters
        ----------
        X
            (N, D) samples, a tensor or what scikit-learn takes; finite.
        y
            Not used; there for scikit-learn.
        centroids
            The first centroids, (k, D), instead of `init_method`.

        Returns
        -------
        KMeans
            This.

        Raises
        ------
        ValueError
            For what :func:`pydream.ops.kmeans` refuses.
        """
        samples = self._samples(X, reset=True)
        self._check(len(samples))
        start = self.init_method if centroids is None else centroids
        if isinstance(start, str):
            start = "k-means++" if start == "kmeans++" else start
        else:
            start = torch.as_tensor(start, dtype=torch.float32, device=samples.device)
            shape = (self.n_clusters, samples.shape[1])
            check_shape(start, "init_method" if centroids is None else "centroids", shape)
        result = ops.kmeans(
            samples,
            int(self.n_clusters),
            init=start,
            max_iter=self.max_iter,
            tol=self.tol,
            metric=self.mode,
            seed=self._seed(),
            precision=self.precision,
        )
        self._centroids = result.centroids
        self.cluster_centers_ = _like(result.centroids, X)
        self.labels_ = _like(result.labels, X)
        self.inertia_ = float(result.inertia)
        self.n_iter_ = int(result.n_iter)
        if self.verbose >= 1:
            print(
                f"{len(samples)} samples in {self.n_clusters} clusters after {self.n_iter_} "
                f"iterations, inertia {self.inertia_:.6g}"
            )
        return self

    def fit_predict(self, X: Any, y: None = None, centroids: Any = None) -> Any:  # noqa: N803
        """Find the centroids, and return the label of each sample: ``fit(...).labels_``."""
        return self.fit(X, y, centroids).labels_

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
        check_is_fitted(self)
        samples = self._samples(X, reset=False)
        place = self.centroids.to(samples.device)
        result = ops.kmeans(
            samples,
            len(place),
            init=place,
            max_iter=0,
            metric=self.mode,
            precision=self.precision,
        )
        return _like(result.labels, X)

    @property
    def centroids(self) -> Tensor:
        """The centroids as a tensor, float32 (k, D)."""
        check_is_fitted(self)
        return self._centroids

    def _samples(self, value: Any, *, reset: bool) -> Tensor:
        """Return what came as a tensor that the op takes."""
        if not isinstance(value, Tensor):
            checked = validate_data(self, value, reset=reset, dtype=[np.float32, np.float64])
            return torch.from_numpy(np.ascontiguousarray(checked, dtype=np.float32))
        if value.dim() != 2:
            raise ValueError(f"X must have shape (N, D), got {tuple(value.shape)}")
        if reset:
            self.n_features_in_ = value.shape[1]
        elif value.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {value.shape[1]} features, but the fit was with {self.n_features_in_}"
            )
        return value.detach().float() if value.dtype == torch.float64 else value.detach()

    def _check(self, count: int) -> None:
        """Raise for settings that the op would refuse by its own names."""
        check_at_least(self.n_clusters, "n_clusters", 1)
        check_at_least(self.max_iter, "max_iter", 1)
        if self.n_clusters > count:
            raise ValueError(
                f"n_clusters must be at most the number of samples, {count}, got {self.n_clusters}"
            )
        check_choice(self.mode, "mode", ("euclidean", "cosine"))
        if isinstance(self.init_method, str):
            check_choice(self.init_method, "init_method", ("k-means++", "kmeans++", "random"))

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


def _like(result: Tensor, given: Any) -> Any:
    """Return a result as the samples came."""
    return result if isinstance(given, Tensor) else result.cpu().numpy()
