"""What holds for all public ops: errors in words, torch.compile, and torch's global state."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from devices import as_called
from every_op import ARGUMENTS, DIFFERENTIABLE, X, tensors_of
from torch_states import STATES

from pydream import ops

every_op = pytest.mark.parametrize("name", list(ARGUMENTS))


def test_the_table_has_every_op_and_argument() -> None:
    assert {*ARGUMENTS, "check_values", "KMeansResult", "KeyPatches"} == set(ops.__all__)
    for name, arguments in ARGUMENTS.items():
        known = inspect.signature(as_called(name)).parameters
        assert set(known) - {"out"} == set(arguments), name


class Unshareable:
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("words of another library")


def nested(layout: torch.layout) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are a prototype
        return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=layout)


def quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are deprecated
        return torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.quint8)


NO_TENSORS: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "a word": lambda: "never",
    "words": lambda: ["a", "b"],
    "a dict": dict,
    "an object": object,
    "a generator": lambda: (number for number in range(0)),
    "a float": lambda: 1.5,
    "NaN": lambda: float("nan"),
    "beyond 64 bits": lambda: 2**70,
    "negative": lambda: -3,
    "True": lambda: True,
    "complex": lambda: 1j,
    "empty": list,
    "lists": lambda: [[1.0]],
    "Nones": lambda: [None, None],
    "a dtype": lambda: torch.float64,
}
TENSORS: dict[str, Callable[[], Any]] = {
    "sparse": lambda: torch.eye(5).to_sparse(),
    "quantised": quantised,
    "nested": lambda: nested(torch.strided),
    "jagged": lambda: nested(torch.jagged),
    "complex tensor": lambda: torch.ones(4, 3, dtype=torch.complex64),
    "meta": lambda: torch.ones(4, 3, device="meta"),
    "bools": lambda: torch.ones(4, 3, dtype=torch.bool),
    "eight bits": lambda: torch.ones(4, 3).to(torch.float8_e4m3fn),
    "no elements": lambda: torch.empty(0),
    "no dimensions": lambda: torch.tensor(1.0),
}
ARRAYS: dict[str, Callable[[], Any]] = {
    "objects": lambda: np.array([object()]),
    "strings": lambda: np.array(["a"]),
    "big-endian": lambda: np.ones((3, 3), ">f4"),
    "backwards": lambda: np.ones((3, 3), np.float32)[::-1],
    "masked": lambda: np.ma.ones((3, 3)),
    "long double": lambda: np.ones(3, np.longdouble),
    "odd strides": lambda: np.zeros(4, "u1,f4")["f1"],
    "a number of NumPy": lambda: np.float32(1.5),
    "unshareable": Unshareable,
}
# What an argument takes of these: it may be left out, or is any number or a flag.
TAKEN = {
    ("crop_resize", "image_index", "None"),
    ("crop_resize", "flip", "None"),
    ("crop_resize", "canvas", "None"),
    ("crop_resize", "channels_last", "True"),
    ("matched_cells", "image_index", "None"),
    ("matched_cells", "inside", "None"),
    ("kmeans", "weights", "None"),
    ("random_crop_boxes", "ids", "None"),
    ("representatives", "offsets", "None"),
    *(
        (name, argument, number)
        for name, argument in (
            ("kmeans", "tol"),
            ("representatives", "tol"),
            ("norm_relu_pool", "eps"),
        )
        for number in ("a float", "beyond 64 bits", "a number of NumPy")
    ),
}
# Pieces of what Python and PyTorch say themselves.
OTHERS_WORDS = (
    "object is not",
    "has no len",
    "unsupported operand",
    "Tensor.",
    "argument '",
    "Internal error",
    "memory format",
    "schema",
    "Could not run",
    "can't convert",
    "another library",
)


@every_op
@pytest.mark.parametrize(
    "kinds", [NO_TENSORS, TENSORS, ARRAYS], ids=["values", "tensors", "arrays"]
)
def test_a_value_of_the_wrong_kind_is_refused_in_words(
    name: str, kinds: dict[str, Callable[[], Any]]
) -> None:
    arguments = ARGUMENTS[name]
    for argument in arguments:
        for kind, make in kinds.items():
            if (name, argument, kind) in TAKEN:
                continue
            with pytest.raises((TypeError, ValueError)) as caught:
                as_called(name)(**{**arguments, argument: make()})
            words = str(caught.value)
            assert any(word in words for word in arguments), (argument, kind, words)
            assert not any(word in words for word in OTHERS_WORDS), (argument, kind, words)
            assert "\n" not in words, (argument, kind, words)


@every_op
def test_a_gradient_without_a_derivative_is_refused(name: str) -> None:
    arguments = ARGUMENTS[name]
    for argument, value in arguments.items():
        floating = isinstance(value, torch.Tensor) and value.is_floating_point()
        if not floating or name in DIFFERENTIABLE:
            continue
        leaf = value.clone().requires_grad_()
        with pytest.raises(ValueError, match=f"{argument} requires a gradient.* no derivative"):
            as_called(name)(**{**arguments, argument: leaf})
        with torch.no_grad():
            found = tensors_of(as_called(name)(**{**arguments, argument: leaf}))
        expected = tensors_of(as_called(name)(**arguments))
        assert all(a.equal(b) for a, b in zip(found, expected, strict=True))
        assert not any(tensor.requires_grad for tensor in found)


def test_check_values_names_a_device_that_is_none() -> None:
    odd: list[Any] = ["gpu", 1.5, "cuda:x", []]
    for device in odd:
        with pytest.raises((TypeError, ValueError), match="device must be"):
            ops.check_values(device)


def test_check_values_names_a_gpu_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for device in ("cuda:7", torch.device("cuda", 7)):
        with pytest.raises(ValueError, match=r"^device must be one of this machine's 1 GPUs, got"):
            ops.check_values(device)


def test_devices_are_named() -> None:
    from pydream.ops._checks import check_device

    with pytest.raises(ValueError, match=r"^labels is on meta, but logits is on cpu$"):
        check_device(X.to("meta"), "labels", torch.device("cpu"), "logits")


def test_arrays_of_numpy_are_taken_as_they_are() -> None:
    x = X.numpy().copy()
    expected = ops.kmeans(X, 2)
    x.setflags(write=False)
    assert ops.kmeans(x, np.int64(2)).labels.equal(expected.labels)
    assert ops.kmeans(x.astype(">f4").astype("=f4"), 2).labels.equal(expected.labels)
    half = x.astype(np.float16)
    assert ops.kmeans(half, 2).labels.equal(ops.kmeans(torch.from_numpy(half), 2).labels)
    batch = ops.kmeans(x.reshape(2, 6, 3), np.int32(2))
    assert batch.centroids.shape == (2, 2, 3)
    counts: Any = np.array([1, 2])
    assert ops.kmeans(x.reshape(2, 6, 3), counts).centroids.shape == (3, 3)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """One that has not compiled the same function for other ops."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@contextlib.contextmanager
def inference_under_autocast() -> Iterator[None]:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        yield


MODES: dict[str, Callable[[], Any]] = {
    "any shape": contextlib.nullcontext,
    "inference under autocast": inference_under_autocast,
}
# Compiled, norm_relu_pool is PyTorch's operations, with sums in float32 in another order.
REORDERED = 1e-6


def split(arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return tensors and lists of them, which a compiled function is given, and the rest."""
    given = {
        key: value
        for key, value in arguments.items()
        if isinstance(value, torch.Tensor)
        or (isinstance(value, list) and isinstance(value[0], torch.Tensor))
    }
    return given, {key: value for key, value in arguments.items() if key not in given}


@every_op
def test_compiles_whole_in_every_mode(name: str, fresh_compiler: None) -> None:
    op = as_called(name)
    given, closed = split(ARGUMENTS[name])
    expected = tensors_of(op(**given, **closed))
    for mode, context in MODES.items():
        compiled = torch.compile(
            lambda given: op(**given, **closed),
            backend="eager",
            fullgraph=True,
            dynamic=mode == "any shape",
        )
        with context():
            found = tensors_of(compiled(given))
        for a, b in zip(found, expected, strict=True):
            atol = REORDERED if name == "norm_relu_pool" else 0.0
            torch.testing.assert_close(a, b, rtol=0.0, atol=atol, msg=mode)


@pytest.mark.parametrize(("name", "argument"), DIFFERENTIABLE.items())
def test_compiles_whole_with_a_gradient(name: str, argument: str, fresh_compiler: None) -> None:
    op = as_called(name)
    given, closed = split(ARGUMENTS[name])

    def slopes(function: Callable[..., Any]) -> tuple[torch.Tensor, ...]:
        value = given[argument]
        leaves = [tensor.clone().requires_grad_() for tensor in tensors_of(value)]
        own = {**given, argument: leaves if isinstance(value, list) else leaves[0]}
        return torch.autograd.grad(function(own).square().sum(), leaves)

    expected = slopes(lambda given: op(**given, **closed))
    compiled = torch.compile(lambda given: op(**given, **closed), backend="eager", fullgraph=True)
    for a, b in zip(slopes(compiled), expected, strict=True):
        torch.testing.assert_close(a, b)


@every_op
def test_the_state_of_torch_does_not_matter(name: str) -> None:
    op, arguments = as_called(name), ARGUMENTS[name]
    arrays = {
        key: value.numpy() if isinstance(value, torch.Tensor) else value
        for key, value in arguments.items()
    }
    for array in arrays.values():
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    expected = tensors_of(op(**arguments))
    for state, context in STATES.items():
        for given in (arguments, arrays):
            with context():
                found = tensors_of(op(**given))
            for a, b in zip(found, expected, strict=True):
                assert a.dtype == b.dtype, state
                assert a.equal(b), state
