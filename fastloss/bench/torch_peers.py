"""PyTorch's forward and backward pass, as an expression that each loss names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..families.loss import Loss

Array = NDArray[Any]

_LOG_CLIPPED = "torch.log((p / p.sum(-1, keepdim=True)).clamp(epsilon, 1 - epsilon))"
#: What a user writes where a loss names no expression because torch's result differs at the extremes.
PLAIN = {
    ("binary_crossentropy", "probabilities"): "F.binary_cross_entropy(p, y, reduction=reduction)",
    ("categorical_crossentropy", "probabilities"): f"-(y * {_LOG_CLIPPED}).sum(-1).mean()",
    ("sparse_categorical_crossentropy", "probabilities"): f"F.nll_loss({_LOG_CLIPPED}, y, reduction=reduction)",
}


def available() -> str:
    """Why torch cannot be measured; empty if it can."""
    try:
        import torch
    except ImportError:
        return "not importable"
    return "" if hasattr(torch, "nn") else "not usable"


def call(loss: Loss, configuration: str, y: Array, p: Array, threads: int) -> tuple[Callable[[], Any], Any] | None:
    """Forward and backward with a gradient that is new each time, and the prediction that will hold it.

    Gives None where torch has no such loss.
    """
    import torch
    import torch.nn.functional as F

    expression = PLAIN.get((loss.name, configuration), loss.peers.torch)
    if not expression:
        return None
    parameters = {field.name: getattr(loss, field.name) for field in dataclasses.fields(loss)}
    forward = eval(f"lambda y, p: {expression}", {**parameters, "torch": torch, "F": F, "reduction": "mean"})
    target, prediction = _tensor(y), _tensor(p).requires_grad_()
    if forward(target, prediction) is None:
        return None
    torch.set_num_threads(threads)

    def forward_and_backward() -> Any:
        prediction.grad = None
        value = forward(target, prediction)
        value.backward()
        return value

    return forward_and_backward, prediction


def result(value: Any, prediction: Any) -> tuple[float, Array]:
    """Value and gradient as NumPy sees them."""
    return float(value.detach()), np.asarray(prediction.grad.double().numpy())


def _tensor(array: Array) -> Any:
    """A tensor on the array's memory."""
    import torch

    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
