"""PyTorch's forward and backward pass, as an expression that each loss names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..families.loss import Loss

Array = NDArray[Any]


def available() -> str:
    """Why torch cannot be measured; empty if it can."""
    try:
        import torch
    except ImportError:
        return "not importable"
    return "" if hasattr(torch, "nn") else "not usable"


def call(loss: Loss, y: Array, p: Array, threads: int) -> tuple[Callable[[], Any], Any] | None:
    """Forward and backward with a gradient that is new each time, and the prediction that will hold it.

    Torch's own loss, or where it has none the plain expression that the loss names. Gives None where that is none too.
    """
    import torch

    target, prediction = _tensor(y), _tensor(p).requires_grad_()
    forward = _forward(loss, target, prediction)
    if forward is None:
        return None
    torch.set_num_threads(threads)

    def forward_and_backward() -> Any:
        prediction.grad = None
        losses = forward(target, prediction)
        value = losses.mean() if losses.ndim else losses
        value.backward()
        return value

    return forward_and_backward, prediction


def _forward(loss: Loss, target: Any, prediction: Any) -> Callable[[Any, Any], Any] | None:
    """The mean loss of a target and a prediction, by the first expression that is one for the loss's parameters."""
    import torch
    import torch.nn.functional as F

    names = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    names |= {"loss": loss, "math": math, "torch": torch, "F": F, "reduction": "mean"}
    for expression in (loss.peers.torch, loss.peers.plain and f"({loss.peers.plain}).mean()"):
        forward: Callable[[Any, Any], Any] = eval(f"lambda y, p: {expression or None}", names)
        if forward(target[:1], prediction[:1]) is not None:
            return forward
    return None


def result(value: Any, prediction: Any) -> tuple[float, Array]:
    """Value and gradient as NumPy sees them."""
    return float(value.detach()), np.asarray(prediction.grad.double().numpy())


def _tensor(array: Array) -> Any:
    """A tensor on the array's memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
