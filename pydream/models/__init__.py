"""Classifiers: ConvNet, ResNet-AP, the registry over torchvision and timm, and observers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydream.lazy import lazy_members
from pydream.models.config import ObserverConfig, ObserverSettings

if TYPE_CHECKING:
    from pydream.models.checkpoint import load_into, read_weights, save_weights
    from pydream.models.convnet import ConvNet
    from pydream.models.loading import load_observer
    from pydream.models.observer import Observer
    from pydream.models.registry import build_model
    from pydream.models.resnet_ap import ResNetAP
    from pydream.models.train import TrainedObserver, train_observer

__all__ = [
    "ConvNet",
    "Observer",
    "ObserverConfig",
    "ObserverSettings",
    "ResNetAP",
    "TrainedObserver",
    "build_model",
    "load_into",
    "load_observer",
    "read_weights",
    "save_weights",
    "train_observer",
]

lazy_members(
    __name__,
    {
        "ConvNet": "pydream.models.convnet",
        "Observer": "pydream.models.observer",
        "ResNetAP": "pydream.models.resnet_ap",
        "TrainedObserver": "pydream.models.train",
        "build_model": "pydream.models.registry",
        "load_into": "pydream.models.checkpoint",
        "load_observer": "pydream.models.loading",
        "read_weights": "pydream.models.checkpoint",
        "save_weights": "pydream.models.checkpoint",
        "train_observer": "pydream.models.train",
    },
)
