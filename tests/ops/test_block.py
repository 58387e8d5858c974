from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from devices import place
from torch.func import functional_call, grad, jvp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from pydream import ops
from pydream.matching import Matcher
from pydream.models import ConvNet
from pydream.models.convnet import Norm
from pydream.ops.block import Statistics

# Of the largest value: sums of at most some thousand products in float32, beside float64.
ROUNDING = 3e-6
# Where an image is nearly flat, 1 / deviation enlarges what rounding there is.
FLAT_ROUNDING = 2e-4
# Between two orders of the same sums in float32, through three blocks.
REORDERED = 2e-5

SHAPES = [
    (3, 48, 8, 8),
    (2, 67, 7, 9),  # channels for vectors and single ones, a last odd row and column
    (1, 1, 2, 2),
    (1, 19, 3, 2),
    (5, 33, 2, 5),
    (2, 111, 1 + 2 * 5, 4),
    (2, 130, 16, 16),  # more than one thread's channels
    (1, 5, 45, 50),  # more than a block of a GPU keeps, with channels one at a time
    (2, 8, 64, 48),  # the same with four at a time
]


def inputs(shape: tuple[int, ...], statistics: str) -> list[torch.Tensor]:
    """Images, weight, bias, and the slope of the result; no ReLU near its kink."""
    generator = torch.Generator().manual_seed(sum(shape))
    count, channels, height, width = shape
    for _ in range(100):
        images = torch.randn(shape, generator=generator) * 2 + 3
        weight, bias = torch.randn(2, channels, generator=generator)
        normed = normalised(images.double(), weight.double(), bias.double(), statistics, 1e-5)
        if normed.abs().min() > 1e-5:
            break
    slope = torch.randn(count, channels, height // 2, width // 2, generator=generator)
    return [images, weight, bias, slope]


def normalised(
    images: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, statistics: str, eps: float
) -> torch.Tensor:
    dims = (0, 2, 3) if statistics == "batch" else (2, 3)
    mean = images.mean(dims, keepdim=True)
    variance = (images - mean).square().mean(dims, keepdim=True)
    rows = (1, -1, 1, 1)
    return (images - mean) / (variance + eps).sqrt() * weight.view(rows) + bias.view(rows)


def by_formula(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    statistics: str,
    eps: float = 1e-5,
) -> torch.Tensor:
    normed = normalised(images, weight, bias, statistics, eps)
    height, width = images.shape[2] // 2 * 2, images.shape[3] // 2 * 2
    cells = normed.clamp(min=0)[:, :, :height, :width]
    means: torch.Tensor = cells.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
    return means


def values_and_slopes(
    function: Callable[..., torch.Tensor],
    tensors: Sequence[torch.Tensor],
    statistics: str,
    second: Sequence[torch.Tensor] | None = None,
) -> list[torch.Tensor]:
    """What the function returns, its slopes and, for these `second` slopes, theirs."""
    images, weight, bias, slope = (place(tensor).requires_grad_() for tensor in tensors)
    pooled = function(images, weight, bias, statistics)
    slopes = torch.autograd.grad(pooled, (images, weight, bias), slope, create_graph=True)
    found = [pooled, *slopes]
    if second is not None:
        found += torch.autograd.grad(
            slopes, (images, weight, slope), [place(tensor.to(images.dtype)) for tensor in second]
        )
    return [tensor.detach().cpu() for tensor in found]


def assert_near(
    found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], tolerance: float = ROUNDING
) -> None:
    for mine, exact in zip(found, expected, strict=True):
        scale = float(exact.abs().max())
        torch.testing.assert_close(mine.double(), exact, rtol=0.0, atol=tolerance * scale + 1e-12)


@pytest.mark.parametrize("statistics", ["instance", "batch"])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_formula_and_its_derivatives(
    isa: str, shape: tuple[int, ...], statistics: str
) -> None:
    tensors = inputs(shape, statistics)
    generator = torch.Generator().manual_seed(1)
    second = [torch.randn(tensor.shape, generator=generator) for tensor in tensors[:3]]
    found = values_and_slopes(ops.norm_relu_pool, tensors, statistics, second)
    exact = values_and_slopes(
        by_formula, [tensor.double() for tensor in tensors], statistics, second
    )
    assert_near(found, exact)


def test_far_from_zero(isa: str) -> None:
    images, weight, bias, slope = inputs((2, 20, 6, 6), "instance")
    images = images / 2 + 1000  # float32 keeps 14 bits of what is left
    for statistics in ("instance", "batch"):
        tensors = [images, weight, bias, slope]
        found = values_and_slopes(ops.norm_relu_pool, tensors, statistics)
        exact = values_and_slopes(by_formula, [tensor.double() for tensor in tensors], statistics)
        assert_near(found[:1], exact[:1], FLAT_ROUNDING)


@pytest.mark.parametrize("statistics", ["instance", "batch"])
def test_a_flat_image_is_its_bias(isa: str, statistics: Statistics) -> None:
    images = torch.full((2, 17, 4, 4), 0.3)
    weight, bias = torch.randn(17), torch.randn(17)
    pooled = ops.norm_relu_pool(place(images), place(weight), place(bias), statistics).cpu()
    expected = bias.clamp(min=0).view(1, -1, 1, 1).expand(2, 17, 2, 2)
    torch.testing.assert_close(pooled, expected, rtol=0.0, atol=FLAT_ROUNDING)


def test_a_channel_of_weight_zero_has_a_slope(isa: str) -> None:
    images, weight, bias, slope = inputs((2, 18, 4, 4), "instance")
    weight, bias = torch.zeros_like(weight), bias.abs() + 0.1
    second = [torch.randn_like(tensor) for tensor in (images, weight, bias)]
    tensors = [images, weight, bias, slope]
    found = values_and_slopes(ops.norm_relu_pool, tensors, "instance", second)
    exact = values_and_slopes(
        by_formula, [tensor.double() for tensor in tensors], "instance", second
    )
    assert_near(found, exact)


def test_nan_stays(isa: str) -> None:
    images, weight, bias, _ = inputs((2, 20, 4, 4), "instance")
    images[1, 7, 0, 0] = float("nan")
    pooled = ops.norm_relu_pool(place(images), place(weight), place(bias)).cpu()
    assert pooled[1, 7].isnan().all()
    assert not pooled[0].isnan().any()


@pytest.mark.parametrize("channels", [70, 72])
@pytest.mark.parametrize("statistics", ["instance", "batch"])
def test_any_memory_gives_the_same_bytes(statistics: str, channels: int) -> None:
    images, weight, bias, slope = inputs((4, channels, 6, 10), statistics)
    second = [torch.randn_like(tensor) for tensor in (images, weight, bias)]
    wide = torch.zeros(4, channels, 6, 20)
    wide[..., ::2] = images
    apart = torch.zeros(images.numel() + 1)[1:]  # where no four values can be read at once
    apart = apart.view(4, 6, 10, channels).permute(0, 3, 1, 2).copy_(images)
    last = images.to(memory_format=torch.channels_last)
    variants = [images, last, wide[..., ::2], apart]
    results = [
        values_and_slopes(ops.norm_relu_pool, [variant, weight, bias, slope], statistics, second)
        for variant in variants
    ]
    for result in results[1:]:
        for mine, other in zip(result, results[0], strict=True):
            assert torch.equal(mine, other)


def test_threads_and_batches_change_nothing() -> None:
    tensors = inputs((9, 130, 8, 8), "instance")
    whole = values_and_slopes(ops.norm_relu_pool, tensors, "instance")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = values_and_slopes(ops.norm_relu_pool, tensors, "instance")
    finally:
        torch.set_num_threads(threads)
    for mine, other in zip(alone, whole, strict=True):
        assert torch.equal(mine, other)
    part = [tensors[0][4:6], tensors[1], tensors[2], tensors[3][4:6]]
    for mine, other in zip(
        values_and_slopes(ops.norm_relu_pool, part, "instance")[:2], whole[:2], strict=True
    ):
        assert torch.equal(mine, other[4:6])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_are_pytorchs_operations(dtype: torch.dtype) -> None:
    tensors = [tensor.to(dtype) for tensor in inputs((2, 5, 6, 6), "instance")[:3]]
    images, weight, bias = tensors
    expected = F.avg_pool2d(F.group_norm(images, 5, weight, bias).relu(), 2)
    pooled = ops.norm_relu_pool(images, weight, bias)
    assert pooled.dtype == dtype
    torch.testing.assert_close(pooled, expected, rtol=0.0, atol=0.0)


class Called(TorchDispatchMode):
    """Counts the ops of pydream."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func.name().partition("::")
        if namespace == "pydream":
            self.ops.append(name)
        return func(*args, **(kwargs or {}))


FORWARD, BACKWARD, SECOND = (
    "norm_relu_pool",
    "norm_relu_pool_backward",
    "norm_relu_pool_second_backward",
)


def slopes_of_slopes(
    op: Callable[..., torch.Tensor],
    statistics: str,
    tensors: Sequence[torch.Tensor],
    apart: bool,
    parameters: bool,
) -> list[torch.Tensor]:
    """Gradients of a loss of each batch of several, and the slopes of a function of them all.

    Shapes: images (K, N, C, H, W) and their upstream slopes; weight and bias (K, C), or (C,) unless
    they are `apart`. Without `parameters` these are constants.
    """
    images, weight, bias, upstream = (place(tensor).requires_grad_() for tensor in tensors)
    leaves = [images, weight, bias] if parameters else [images]

    def loss(images: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        weight, bias, upstream = rest
        return (op(images, weight, bias, statistics) * upstream).square().sum()

    if not parameters:
        weight, bias = weight.detach(), bias.detach()
    of_parameters = 0 if apart else None
    found = vmap(grad(loss, tuple(range(len(leaves)))), (0, of_parameters, of_parameters, 0))(
        images, weight, bias, upstream
    )
    leaves.append(upstream)
    return [
        tensor.detach().cpu()
        for tensor in (*found, *torch.autograd.grad(sum(x.square().sum() for x in found), leaves))
    ]


@pytest.mark.parametrize("statistics", ["instance", "batch"])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("parameters", [False, True])
def test_batches_under_vmap_and_grad_take_the_kernels(
    statistics: str, apart: bool, parameters: bool
) -> None:
    batches = [inputs((3, 6, 5, 4), statistics) for _ in range(4)]
    batches = [[tensor * (1 + number) for tensor in part] for number, part in enumerate(batches)]
    images, weight, bias, slope = (torch.stack(tensors) for tensors in zip(*batches, strict=True))
    tensors = [images, weight, bias, slope] if apart else [images, weight[0], bias[0], slope]
    with Called() as called:
        found = slopes_of_slopes(ops.norm_relu_pool, statistics, tensors, apart, parameters)
    exact = slopes_of_slopes(
        by_formula, statistics, [tensor.double() for tensor in tensors], apart, parameters
    )
    assert_near(found, exact)
    # The loss is a function of the result and of upstream: each is differentiated once more.
    assert sorted(set(called.ops)) == [FORWARD, BACKWARD, SECOND]
    assert called.ops.count(FORWARD) == called.ops.count(SECOND) == 1


def test_a_vmap_of_vmaps_is_one_batch() -> None:
    images, weight, bias, slope = inputs((12, 6, 4, 6), "instance")
    images, slope = images.view(2, 3, 2, 6, 4, 6), slope.view(2, 3, 2, 6, 2, 3)

    def slopes(op: Callable[..., torch.Tensor], *given: torch.Tensor) -> torch.Tensor:
        def loss(images: torch.Tensor, upstream: torch.Tensor) -> torch.Tensor:
            return (op(images, given[0], given[1], "batch") * upstream).sum()

        found: torch.Tensor = vmap(vmap(grad(loss)))(*given[2:])
        return found.cpu()

    tensors = [weight, bias, images, slope]
    with Called() as called:
        found = slopes(ops.norm_relu_pool, *map(place, tensors))
    assert called.ops == [FORWARD, BACKWARD]
    assert_near([found], [slopes(by_formula, *(tensor.double() for tensor in tensors))])


def by_each_slope(
    function: Callable[..., torch.Tensor],
    tensors: Sequence[torch.Tensor],
    slopes: torch.Tensor,
    statistics: str,
    *,
    second: bool,
    batched: bool,
) -> list[torch.Tensor]:
    """Derivatives for each of some slopes, at once or one by one, and those of their squares."""
    images, weight, bias, slope = (place(tensor).requires_grad_() for tensor in tensors)
    leaves, slopes = [images, weight], place(slopes)
    found = function(images, weight, bias, statistics)
    if second:
        (found,) = torch.autograd.grad(found, images, slope, create_graph=True)
        leaves = [images, slope]
    if batched:
        each = torch.autograd.grad(found, leaves, slopes, is_grads_batched=True, create_graph=True)
    else:
        one_by_one = [torch.autograd.grad(found, leaves, of, create_graph=True) for of in slopes]
        each = tuple(torch.stack(parts) for parts in zip(*one_by_one, strict=True))
    squares = [part.square().sum() for part in each]
    # PyTorch has no third derivative of a batch norm.
    more = () if second else torch.autograd.grad(squares[0] + squares[1], leaves)
    return [tensor.detach().cpu() for tensor in (*each, *more)]


@pytest.mark.parametrize("statistics", ["instance", "batch"])
@pytest.mark.parametrize("second", [False, True])
def test_derivatives_for_several_slopes_at_once(statistics: str, second: bool) -> None:
    tensors = inputs((3, 6, 5, 4), statistics)
    shape = (5, *(tensors[0] if second else tensors[3]).shape)
    slopes = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    found = by_each_slope(
        ops.norm_relu_pool, tensors, slopes, statistics, second=second, batched=True
    )
    exact = by_each_slope(
        by_formula,
        [tensor.double() for tensor in tensors],
        slopes.double(),
        statistics,
        second=second,
        batched=False,
    )
    assert_near(found, exact)


# PyTorch has no third derivative of a batch norm.
@pytest.mark.parametrize(("statistics", "order"), [("instance", 3), ("batch", 2)])
def test_derivatives_of_derivatives(statistics: str, order: int) -> None:
    images, weight, bias, _ = inputs((2, 3, 4, 4), statistics)

    def last(op: Callable[..., torch.Tensor], *given: torch.Tensor) -> list[torch.Tensor]:
        def function(images: torch.Tensor) -> torch.Tensor:
            return op(images, given[1], given[2], statistics).pow(3).sum()

        leaf = given[0].clone().requires_grad_()
        value = function(leaf)
        for _ in range(order):
            (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
            value, function = slope.square().sum(), of_slope(function)
        return [value.detach().cpu(), function(given[0]).cpu()]

    tensors = [images, weight, bias]
    found = last(ops.norm_relu_pool, *map(place, tensors))
    assert_near(found, last(by_formula, *(tensor.double() for tensor in tensors)))


def of_slope(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return lambda x: grad(function)(x).square().sum()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_forward_derivatives_are_pytorchs() -> None:
    images, weight, bias, _ = map(place, inputs((2, 3, 4, 4), "instance"))
    with Called() as called:
        found = jvp(lambda x: ops.norm_relu_pool(x, weight, bias), (images,), (images.square(),))
    exact = jvp(
        lambda x: by_formula(x, weight.double(), bias.double(), "instance"),
        (images.double(),),
        (images.double().square(),),
    )
    assert_near([value.cpu() for value in found], [value.cpu() for value in exact])
    assert not called.ops


def test_no_images() -> None:
    tensors = [torch.empty(0, 5, 4, 4), torch.ones(5), torch.zeros(5), torch.empty(0, 5, 2, 2)]
    second = [torch.empty(0, 5, 4, 4), torch.ones(5), torch.ones(5)]
    found = values_and_slopes(ops.norm_relu_pool, tensors, "instance", second)
    assert [len(values) for values in found] == [0, 0, 5, 5, 0, 5, 0]
    assert not any(values.any() for values in found)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": torch.rand(5, 4, 4)}, "images must have shape"),
        ({"images": torch.rand(2, 5, 1, 4)}, "2 pixels high and wide, got 1 x 4"),
        ({"weight": torch.ones(4)}, "weight must have shape"),
        ({"statistics": "layer"}, "statistics must be one of instance, batch, got 'layer'"),
        ({"images": torch.rand(0, 5, 4, 4), "statistics": "batch"}, "images must not be empty"),
    ],
)
def test_bad_input(change: dict[str, Any], words: str) -> None:
    arguments = {"images": torch.rand(2, 5, 4, 4), "weight": torch.ones(5), "bias": torch.zeros(5)}
    with pytest.raises(ValueError, match=words):
        ops.norm_relu_pool(**{**arguments, **change})


def test_dtypes_must_agree() -> None:
    with pytest.raises(TypeError, match="bias must be float32, got float64"):
        ops.norm_relu_pool(torch.rand(2, 5, 4, 4), torch.ones(5), torch.zeros(5).double())


@pytest.mark.parametrize("statistics", [False, True])
def test_registered_as_pytorch_asks(statistics: bool) -> None:
    images, weight, bias, slope = map(place, inputs((2, 18, 5, 4), "batch"))
    mean, rstd = torch.ops.pydream.norm_relu_pool(images, weight, bias, statistics, 1e-5)[1:]
    kept = [images, weight, bias, mean, rstd, slope]
    for op, arguments in (
        (torch.ops.pydream.norm_relu_pool, (images, weight, bias, statistics, 1e-5)),
        (torch.ops.pydream.norm_relu_pool_backward, (kept, statistics, 1e-5, True)),
        (
            torch.ops.pydream.norm_relu_pool_second_backward,
            (kept, [images, weight, None], statistics, 1e-5, True),
        ),
    ):
        torch.library.opcheck(op, arguments)


class Plain(ConvNet):
    """The same network, a layer at a time."""

    def features(self, images: torch.Tensor) -> torch.Tensor:
        layers: Any = self.layers
        for block in range(self.depth):
            for name in ("conv", "norm", "relu", "pool"):
                images = layers[name][block](images)
        return images.flatten(1)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("training", [True, False])
def test_convnet_computes_the_same_with_it(norm: Norm, training: bool) -> None:
    torch.manual_seed(0)
    fused = ConvNet(7, 9, width=20, norm=norm).train(training)
    plain = Plain(7, 9, width=20, norm=norm).train(training)
    plain.load_state_dict(copy.deepcopy(fused.state_dict()))
    images, labels = torch.randn(6, 3, 9, 9), torch.arange(6)
    for _ in range(2):  # running statistics move twice
        losses = [F.cross_entropy(network(images), labels) for network in (fused, plain)]
        slopes = [
            torch.autograd.grad(loss, list(network.parameters()))
            for loss, network in zip(losses, (fused, plain), strict=True)
        ]
        # All beside the largest: a bias before a norm has no slope but rounding.
        flat = [torch.cat([gradient.flatten() for gradient in found]) for found in slopes]
        assert_near([flat[0]], [flat[1].double()], REORDERED)
    for name, value in fused.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=REORDERED, atol=REORDERED)


def test_hooks_on_the_layers_of_a_convnet_see_what_passes() -> None:
    network: Any = ConvNet(3, 8, width=4, norm="instance")
    seen = []
    handle = network.layers["relu"][1].register_forward_hook(lambda *given: seen.append(given[2]))
    network(torch.rand(2, 3, 8, 8))
    handle.remove()
    network(torch.rand(2, 3, 8, 8))
    assert [tuple(tensor.shape) for tensor in seen] == [(2, 4, 4, 4)]


def test_a_convnet_under_vmap_is_the_same() -> None:
    network = ConvNet(3, 8, width=4, norm="instance")
    images = torch.rand(2, 5, 3, 8, 8)
    state: dict[str, torch.Tensor] = dict(network.named_parameters())
    together = vmap(lambda image: functional_call(network, state, (image,)))(images)
    torch.testing.assert_close(
        together, torch.stack([network(image) for image in images]), rtol=REORDERED, atol=REORDERED
    )


def test_matching_takes_the_kernels() -> None:
    network = ConvNet(3, 8, width=4, norm="instance")
    images, labels = place(torch.rand(2, 5, 3, 8, 8)).requires_grad_(), place(torch.tensor([0, 2]))
    network.to(device=images.device).to(memory_format=torch.channels_last)
    matcher = Matcher(network, "bidirectional")
    with Called() as called:
        answers = matcher(images, labels, together=True)
        torch.autograd.grad([slopes.square().sum() for slopes in answers.gradients], images)
    assert sorted(set(called.ops)) == [FORWARD, BACKWARD, SECOND]
    assert called.ops.count(FORWARD) == called.ops.count(SECOND) == 3
