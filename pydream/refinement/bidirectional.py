"""What the cells of a class tell an observer together, and how far it is from what anchors tell.

DREAM+ matches synthetic images to real ones in two directions: forward by the mean features of a
class, and backward by the gradients of the network's weights (arXiv 2310.15052, section 3.3). Here
the real images are the anchors of the cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pydream.matching import Matcher, answer_distance
from pydream.models.layers import LayerFeatures

_METRIC = "mse"  # of DREAM+ on images of 32 pixels


class BidirectionalDistance:
    """The distance of an observer's answers to the cells and to the anchors of a class.

    Parameters
    ----------
    layer
        A layer of the observer. The answers are those of the whole network.

    Raises
    ------
    PydreamError
        If the observer has no convolution whose gradient could be matched.
    """

    def __init__(self, layer: LayerFeatures) -> None:
        self._layer = layer
        self._matcher = Matcher(layer.network, "bidirectional")

    def __call__(self, cells: Tensor, anchors: Tensor, label: Tensor) -> Tensor:
        """Return the distance, differentiable in the cells if these require gradients.

        Parameters
        ----------
        cells, anchors
            (B, 3, S, S) float32, normalised and augmented.
        label
            int64, the class.
        """
        column = self._layer.columns[label.view(1)]  # a 0-d index would wait for a GPU
        with torch.no_grad():
            expected = self._matcher(self._layer.fitted(anchors)[None], column, together=False)
        found = self._matcher(self._layer.fitted(cells)[None], column, together=False)
        return answer_distance(found, expected, "bidirectional", _METRIC)
