"""Calls of the kernel that finds a normaliser on the device, where it depends on what arrays hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .elementwise import absent
from .launch import MOST_BLOCKS, Workspace, device_of, divisor, launch
from .source import WeighingBuild, weighing_kernel


class Counted(NamedTuple):
    """What counts in a mean; absent arrays are None. Losses are taken in groups of ``inner`` that share everything."""

    groups: int
    inner: int
    weights: Any  # (groups / weight_step)
    weight_step: int
    mask: Any  # (groups / mask_step)
    mask_step: int
    labels: Any  # (groups)
    class_weights: Any
    ignored: int | None


def run(counted: Counted, computing: str, scratch: Workspace, device: int) -> Any:
    """Launch the kernel; give where 1 / Z will be: one float64 on the device."""
    labels = counted.labels
    build = WeighingBuild("int64" if labels is None else labels.dtype.name, computing)
    blocks = -(-counted.groups // (build.block * 8))
    arguments = (
        *(absent(a) for a in (counted.weights, counted.mask, labels, counted.class_weights)),
        scratch.partials,
        scratch.ticket,
        scratch.inverse,
        np.int64(counted.groups),
        np.float64(counted.inner),
        *divisor(counted.weight_step),
        *divisor(counted.mask_step),
        np.int64(counted.ignored or 0),
        np.int32(counted.ignored is not None),
        np.int64(0 if counted.class_weights is None else counted.class_weights.size),
    )
    blocks = max(1, min(blocks, 4 * device_of(device).multiprocessors, MOST_BLOCKS))
    launch(weighing_kernel(build), blocks, arguments, device)
    return scratch.inverse
