"""Classifiers: ConvNet, ResNet-AP, the registry over torchvision and timm, and observers."""

from __future__ import annotations

from pydream.models.checkpoint import load_into, read_weights, save_weights
from pydream.models.convnet import ConvNet
from pydream.models.loading import load_observer
from pydream.models.observer import Observer
from pydream.models.registry import build_model
from pydream.models.resnet_ap import ResNetAP
from pydream.models.train import ObserverConfig, TrainedObserver, train_observer

__all__ = [
    "ConvNet",
    "Observer",
    "ObserverConfig",
    "ResNetAP",
    "TrainedObserver",
    "build_model",
    "load_into",
    "load_observer",
    "read_weights",
    "save_weights",
    "train_observer",
]
