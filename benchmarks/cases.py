"""Cases of the benchmarks that are shown, and their targets."""

from __future__ import annotations

from dataclasses import dataclass

# By the name of its record; the others are named as their records are.
OPS = {
    "crop": "crop_resize",
    "score": "key_patches",
    "matching": "gradient_distance",
    "augment": "diff_augment",
    "block": "norm_relu_pool",
    "cuda-kmeans": "kmeans",
    "cuda-observer": "observer",
}


# The unavoidable work that ran beside the cases of a record.
BOUNDS = {
    "crop": "a copy of its bytes",
    "score": "one read of the logits",
    "collage": "a copy of its images",
    "kmeans": "a full matrix product",
    "matching": "a copy of its bytes",
    "augment": "a copy of its bytes",
    "multi_formation": "one write of its images",
    "block": "a copy of its bytes",
    "rded": "its observer alone",
    "cuda-ops": "a copy of its bytes",
    "cuda-matching": "a copy of its bytes",
    "cuda-kmeans": "one read, or its matrix products",
}


@dataclass(frozen=True)
class Headline:
    """A case that docs/benchmarks.md shows; `in_readme` is its row in the README's table, or 0."""

    record: str
    case: str
    label: str
    in_readme: int = 0


# Records of which every case is shown.
ALL_SHOWN = ("cuda-ops", "cuda-matching", "cuda-kmeans")
# Records whose cases begin with the name of their op.
OF_MANY_OPS = ("cuda-ops", "cuda-matching")
# The usual use of each op, and every pipeline; the records have all cases.
HEADLINES = (
    Headline(
        "crop",
        "ImageNet to 112, 2 threads",
        "`crop_resize`, ImageNet photographs to 112²",
        in_readme=6,
    ),
    Headline("crop", "32 to 32, 2 threads", "`crop_resize`, boxes of 32 × 32 images to 32²"),
    Headline("score", "10 classes, float32", "`key_patches`, (1500, 1000) logits of ten classes"),
    Headline("score", "1 classes, float32", "`key_patches`, the same of one class"),
    Headline("collage", "patches of 112, float32", "`collage`, 2 × 2 patches of 112² to 224²"),
    Headline(
        "kmeans",
        "CIFAR-10 features (1, 5000, 2048), k 128",
        "`kmeans`, CIFAR-10 features (5000, 2048), k 128",
        in_readme=5,
    ),
    Headline(
        "kmeans", "CIFAR-10 features (10, 5000, 2048), k 128", "`kmeans`, ten such in one call"
    ),
    Headline(
        "kmeans",
        "features (50000, 128), k 1000",
        "`kmeans`, network features (50000, 128), k 1000",
    ),
    Headline("kmeans", "k-means++ (5000, 2048), k 128", "`kmeans`, its k-means++ start"),
    Headline(
        "matching", "ResNet-18, mse", "`gradient_distance`, ResNet-18, `mse`, forward and backward"
    ),
    Headline("matching", "ResNet-18, cos", "`gradient_distance`, the same, `cos`"),
    Headline("matching", "ResNet-18, l1", "`gradient_distance`, the same, `l1`"),
    Headline("matching", "ConvNet-3, mse", "`gradient_distance`, ConvNet-3, `mse`"),
    Headline(
        "augment",
        "crop, a row each",
        "`diff_augment`, 256 images of 32², crop, forward and backward",
    ),
    Headline("augment", "scale, a row each", "`diff_augment`, the same with scale"),
    Headline("augment", "rotate, a row each", "`diff_augment`, the same with rotate"),
    Headline(
        "multi_formation",
        "CIFAR-10, IPC 10, factor 2, forward and backward",
        "`multi_formation`, CIFAR-10, IPC 10, factor 2, forward and backward",
    ),
    Headline(
        "block",
        "32 x 32, instance, and backward",
        "`norm_relu_pool`, 64 × 128 × 32², instance norm, forward and backward",
    ),
    Headline("block", "32 x 32, batch, and backward", "`norm_relu_pool`, the same of batch norm"),
    Headline(
        "block",
        "32 x 32, instance, and second backward",
        "`norm_relu_pool`, instance norm, twice differentiated",
    ),
    Headline("rded", "cifar10", "", in_readme=1),
    Headline("rded", "imagenet", "", in_readme=2),
    Headline("dream", "iteration", "", in_readme=3),
    Headline("evaluate", "student", "", in_readme=4),
)


@dataclass(frozen=True)
class Target:
    """A target for some cases of a record.

    Attributes
    ----------
    record, case
        The record, and what the names of its cases begin with.
    than
        What the names of others begin with, or ``limit``.
    least
        Times as fast as those, or the fraction of the limit.
    """

    record: str
    case: str
    than: str
    least: float


# Every case has the target to be no slower than any peer; these have others.
TARGETS = (
    Target("crop", "", "published transform", 5.0),
    Target("crop", "", "OpenCV", 4.0),
    Target("matching", "ResNet-18, mse", "eager", 4.0),
    Target("matching", "ResNet-18, cos", "eager", 4.0),
    Target("matching", "ResNet-18, l1", "eager", 2.0),
    Target("matching", "ResNet-18", "limit", 0.6),
    Target("augment", "", "published", 3.0),
    Target("dream", "", "published", 2.0),
    Target("rded", "", "limit", 0.87),  # 1.15 times the time of the observer alone
    Target("evaluate", "", "published", 2.0),
    Target("cuda-ops", "crop_resize", "limit", 0.6),
    Target("cuda-ops", "crop_resize", "torchvision", 5.0),
    Target("cuda-kmeans", "(", "limit", 0.6),  # iterations; the other cases name what they are
    Target("cuda-kmeans", "(32, 75600, 128)", "flash-kmeans", 1.2),
    Target("cuda-kmeans", "(1, 1000000, 128)", "flash-kmeans", 1.2),
    Target("cuda-kmeans", "(10, 5000, 2048)", "fast_pytorch_kmeans", 20.0),
)
