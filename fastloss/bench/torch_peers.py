"""PyTorch's forward and backward pass, as an expression that each loss names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..families.loss import Loss
from .by_formula import stacked, taken

Array = NDArray[Any]


def available() -> str:
    """Why torch cannot be measured; empty if it can."""
    try:
        import torch
    except ImportError:
        return "not importable"
    return "" if hasattr(torch, "nn") else "not usable"


def call(loss: Loss, y: Array, p: Array, threads: int) -> tuple[Callable[[], Any], Any] | None:
    """Forward and backward with a gradient that is new each time, and the predictions that will hold it.

    Torch's own loss, or where it has none the plain expression that the loss names. Gives None where that is none too.
    """
    import torch

    target, predictions = taken(loss, y, p)
    tensors = [_tensor(one).requires_grad_() for one in (predictions if loss.several else (p,))]
    arguments = tensors if target is None else [_tensor(target), *tensors]
    forward = _forward(loss, arguments)
    if forward is None:
        return None
    torch.set_num_threads(threads)

    def forward_and_backward() -> Any:
        for prediction in tensors:
            prediction.grad = None
        losses = forward(*arguments)
        value = losses.mean() if losses.ndim else losses
        value.backward()
        return value

    return forward_and_backward, tensors


def _forward(loss: Loss, arguments: list[Any]) -> Callable[..., Any] | None:
    """The mean loss of a call's arguments, by the first expression that is one for the loss's parameters."""
    names = names_of(loss, arguments[-1], "mean")
    operands = ", ".join(loss.operands) if loss.several else "y, p"
    for expression in (loss.peers.torch, loss.peers.plain and f"({loss.peers.plain}).mean()"):
        forward: Callable[..., Any] = eval(f"lambda {operands}: {expression or None}", names)
        if forward(*(one[:1] for one in arguments)) is not None:
            return forward
    return None


def names_of(loss: Loss, prediction: Any, reduction: str) -> dict[str, Any]:
    """What an expression in `Peers.torch` may use beside the loss's operands."""
    import torch
    import torch.nn.functional as F

    names = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    weight = names.get("class_weight")
    names["weight"] = None if weight is None else torch.tensor(weight, dtype=prediction.dtype)
    return names | {"loss": loss, "math": math, "torch": torch, "F": F, "reduction": reduction}


def result(value: Any, predictions: list[Any]) -> tuple[float, Array]:
    """Value and gradient as NumPy sees them."""
    gradients = tuple(prediction.grad.double().numpy() for prediction in predictions)
    return float(value.detach()), stacked(gradients if len(gradients) > 1 else gradients[0])


def _tensor(array: Array) -> Any:
    """A tensor on the array's memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
