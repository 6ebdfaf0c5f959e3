"""All-pairs losses of CuPy arrays: checks that need no look at the data."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..dispatch import on_device as is_there
from ..gpu import launch
from ..reduction import checked_normalizer
from ..validate import require_labels, require_prediction
from . import on_device
from .allpairs import AllPairsLoss, Batch


def prepared(
    loss: AllPairsLoss,
    outputs: int,
    y: Any,
    p: Any,
    other_labels: Any,
    references: Any,
    sample_weight: Any,
    mask: Any,
    normalizer: Any,
    out: Any,
    hess_out: Any,
    check: str,
) -> Batch:
    """The arguments of a call, checked, on y_pred's device."""
    name = loss.name
    on_device.require_aligned(name, "y_pred", p)
    require_prediction(name, p.dtype)
    y = on_device.given(name, "y_true", y, p)
    require_labels(name, y.dtype)
    if references is not None and other_labels is not None:
        references = on_device.given(name, "references", references, p)
        other_labels = on_device.given(name, "reference labels", other_labels, p)
        require_prediction(name, references.dtype)
        require_labels(name, other_labels.dtype)
    loss.require_form(y, p, other_labels, references)
    if normalizer is not None and not is_there(normalizer):
        normalizer = checked_normalizer(name, normalizer)
    with launch.current(p):
        shape, module = p.shape[:1], launch.cupy()
        weighed = on_device.weighed(name, shape, p, "float64", sample_weight, mask, check)
        weights = module.ones(shape, np.float64)
        if weighed.weights is not None:
            good = (weighed.weights >= 0.0) & (weighed.weights < np.inf)
            weights = weights * module.where(good, weighed.weights, np.float64(np.nan))
        kept = None if weighed.mask is None else module.broadcast_to(weighed.mask, shape)
        if kept is not None:
            weights = module.where(kept, weights, np.float64(0))
        share = weights / _normalizer(loss, module, weights, kept, normalizer)
        share = module.where(weights == 0.0, np.float64(0), share)  # also where nothing is left: 0 / 0
        grad, hess = on_device.results(name, outputs, p, out, hess_out, (y, p, references, sample_weight, mask))
        return Batch(module, launch.current(p), y, p, other_labels, references, kept, share, grad, hess)


def _normalizer(loss: AllPairsLoss, module: Any, weights: Any, kept: Any, normalizer: Any) -> Any:
    if normalizer is not None:
        return normalizer
    if loss.reduction in ("sum", "none"):
        return 1.0
    if loss.reduction == "weighted_mean":
        return module.einsum("i->", weights)
    return float(weights.size) if kept is None else module.einsum("i->", kept.astype(np.float64))
