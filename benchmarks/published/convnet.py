"""ConvNet as the published code runs it: one PyTorch operation after the other."""

from __future__ import annotations

from torch import Tensor, nn

from pydream.models.convnet import ConvNet


class PublishedConvNet(ConvNet):
    """The same layers and names as :class:`pydream.models.ConvNet`, without the fused kernels."""

    def features(self, images: Tensor) -> Tensor:
        blocks = [self.layers[name] for name in ("conv", "norm", "relu", "pool")]
        for conv, norm, relu, pool in zip(*blocks, strict=True):
            images = pool(relu(norm(conv(images))))
        return images.flatten(1)


def published(network: nn.Module) -> nn.Module:
    """Return the network, or, of a ConvNet, one with the same weights and no kernel of ours."""
    if not isinstance(network, ConvNet):
        return network
    conv = network.layers["conv"]
    assert isinstance(conv, nn.ModuleList)
    first = conv[0]
    assert isinstance(first, nn.Conv2d)
    plain = PublishedConvNet(
        network.classifier.out_features,
        network.side,
        channels=first.in_channels,
        depth=network.depth,
        width=network.width,
        norm=network.norm,
    )
    plain.load_state_dict(network.state_dict())
    return plain
