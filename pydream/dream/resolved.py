"""Settings with every open one filled in by published numbers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from pydream.dream.config import DreamConfig
from pydream.dream.frameworks import FRAMEWORKS, Framework, Match
from pydream.dream.recipes import framework_numbers, idc_numbers, preset_for
from pydream.errors import PydreamError


@dataclass(frozen=True)
class ResolvedConfig(DreamConfig):
    """Settings in which no value is left to a preset; see `fill_in`."""

    factor: int = 2
    match: Match = "bidirectional"
    metric: str = "mse"
    arch: str = ""
    side: int = 32
    iterations: int = 1
    inner_loop: int = 1
    learning_rate: float = 1.0
    batch_real: int = 1
    network_images: int = 0
    batch_synthetic: int = 128
    network_epochs: int = 0
    synthetic_epochs: int = 0
    with_classifier: bool = False

    @property
    def of_framework(self) -> Framework:
        """The framework that images are optimised in."""
        return FRAMEWORKS[self.framework]

    @property
    def starts_from(self) -> str:
        """First images: noise, real, or the path of a distilled set."""
        if self.start is not None:
            return self.start
        framework = self.of_framework
        published = self.exact or self.sampler == "random"
        return framework.start if published else "real"

    @property
    def leaves_colours(self) -> bool:
        """True if pixels may leave [0, 1] until the set is written, as published."""
        return self.exact and self.of_framework.normalised

    @property
    def can_be_shared(self) -> bool:
        """True if several ranks can optimise classes of their own."""
        framework = self.of_framework
        return framework.networks != "experts" and not (self.exact and framework.in_turn)

    @property
    def trains_on_images(self) -> bool:
        """True if networks are trained on the synthetic images of all classes."""
        return self.of_framework.networks == "synthetic" and self.synthetic_epochs > 0


def fill_in(config: DreamConfig, side: int, num_classes: int) -> ResolvedConfig:
    """Return the settings, with every open one filled in from a preset.

    Parameters
    ----------
    config
        The settings.
    side
        Side of the images, in pixels.
    num_classes
        Number of classes of the source.

    Raises
    ------
    PydreamError
        If a cluster would give more representatives than a step takes of a class.
    """
    name = config.recipe
    if name == "auto":
        name = preset_for(config.source, side, num_classes)
    match = config.match or FRAMEWORKS[config.framework].matches[0]
    bidirectional = match == "bidirectional"
    known = {
        "match": match,
        **idc_numbers(name, ipc=config.ipc, side=side, bidirectional=bidirectional),
    }
    if config.framework != "idc":
        known["factor"] = factor = config.factor or 1
        known |= framework_numbers(
            config.framework,
            name,
            ipc=config.ipc,
            num_classes=num_classes,
            factor=factor,
            bidirectional=bidirectional,
        )
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    missing = {key: value for key, value in known.items() if given[key] is None}
    settings = ResolvedConfig(**{**given, **missing, "recipe": name, "side": side})
    if settings.per_cluster > settings.batch_real:
        raise PydreamError(
            f"per_cluster must be at most batch_real, {settings.batch_real}, "
            f"got {settings.per_cluster}"
        )
    return settings
