from __future__ import annotations

import pytest
import torch

from pydream.dream.synthetic import MOMENTUM, SyntheticImages

# One closed sum beside K steps, in float64.
RTOL = 1e-12


def pull(label: int, images: torch.Tensor) -> torch.Tensor:
    """Return a gradient that depends on where the images are."""
    return (label + 1) * images.sin() + 0.1 * label


def start(classes: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(classes, 2, 3, 4, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("classes", [1, 2, 5, 11])
def test_both_ways_are_sgd_that_steps_after_each_class(classes: int) -> None:
    values = start(classes)
    parameter = values.clone().requires_grad_()
    optimizer = torch.optim.SGD([parameter], lr=0.3, momentum=MOMENTUM)
    together, in_turn = (SyntheticImages(values.clone(), 0.3) for _ in range(2))
    for _ in range(4):
        losses = torch.zeros(classes, dtype=torch.float64)
        for label in range(classes):
            losses[label] = parameter.detach()[label].sum()
            parameter.grad = torch.zeros_like(parameter)
            parameter.grad[label] = pull(label, parameter.detach()[label])
            optimizer.step()
        loss = in_turn.step_in_turn(lambda label, images: (images.sum(), pull(label, images)))
        torch.testing.assert_close(loss, losses, rtol=RTOL, atol=RTOL)
        loss = together.step_together(
            lambda images: (
                images.sum(),
                torch.stack([pull(label, image) for label, image in enumerate(images)]),
            )
        )
        torch.testing.assert_close(loss, losses.sum(), rtol=RTOL, atol=RTOL)
        torch.testing.assert_close(in_turn.values, parameter.detach(), rtol=RTOL, atol=RTOL)
        torch.testing.assert_close(together.values, parameter.detach(), rtol=RTOL, atol=RTOL)
        velocity = optimizer.state[parameter]["momentum_buffer"]
        torch.testing.assert_close(in_turn.velocity, velocity, rtol=RTOL, atol=RTOL)
        torch.testing.assert_close(together.velocity, velocity, rtol=RTOL, atol=RTOL)


def test_clamp() -> None:
    images = SyntheticImages(torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1, 1, 1), 1.0)
    images.clamp()
    assert images.values.flatten().tolist() == [0.0, 0.5, 1.0]
