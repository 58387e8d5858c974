"""Settings of an inspection, shared by the API and the command line."""

from __future__ import annotations

from dataclasses import dataclass

from pydream import checks
from pydream.errors import PydreamError
from pydream.files import expand_settings
from pydream.sets.config import SetSettings


@dataclass(frozen=True, kw_only=True)
class InspectConfig(SetSettings):
    """Settings of `pydream.inspection.inspect`.

    Raises
    ------
    PydreamError
        If a value is out of its range.
    """

    observer: str | None = None
    """Weights of a classifier of these classes, with which realism and diversity are measured."""
    source: str | None = None
    """Real images to compare with, for example those that the set was distilled from."""
    zca: bool = False
    """Take values of a .pt file beyond [0, 1] to be whitened (ZCA, as by MTT), and undo that. The
    whitening is fitted on the real images of the source."""
    most_real: int = 100
    """Largest number of real images of each class in the measure of coverage."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_settings(self, "set", "classes", "observer", "source")
        checks.at_least(1, most_real=self.most_real)
        if self.zca and self.source is None:
            raise PydreamError("whitening (ZCA) is fitted on training images: give --source")
