"""Calls of the elementwise kernels: which one, how large a grid, and its arguments in their order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .launch import MOST_BLOCKS, NULL, Workspace, device_of, divisor, launch
from .source import BYTES, ElementBuild, elementwise_kernel

#: Packs that a thread has under way at once, as ``elementwise.cu`` has it.
UNROLLED = 4
#: Blocks per multiprocessor: 8 of 256 threads fill one.
BLOCKS_EACH = 8


class Operands(NamedTuple):
    """What one call works on, contiguous and of one layout; absent arrays are None."""

    y_true: Any
    y_pred: Any
    weights: Any
    weight_inner: int
    mask: Any
    mask_inner: int
    gradient: Any
    hessian: Any
    losses: Any
    inverse_at: Any  # on the device
    inverse: float  # else: 1 / Z, see `Normalizer` in ``prelude.cuh``


def alignment(arrays: tuple[Any, ...], vector: int) -> int | None:
    """Elements before the first whole pack, the same for all arrays; None if no number fits them all."""
    heads = set()
    for array in arrays:
        if array is not None:
            size = array.itemsize
            unit = min(16, vector * size)
            behind = array.data.ptr % unit
            if behind % size:
                return None
            # Packs of more than 16 bytes begin on 16; every multiple of them does.
            heads.add(0 if not behind else (unit - behind) // size)
    return heads.pop() if len(heads) == 1 else None


def absent(array: Any) -> Any:
    """An array as a kernel's argument."""
    return NULL if array is None else array


def run(
    build: ElementBuild, operands: Operands, parameters: list[float], value: Any, scratch: Workspace, device: int
) -> None:
    """Launch the kernel; ``build.vector`` is chosen here, by where the arrays lie."""
    moved = (operands.y_true, operands.y_pred, operands.gradient, operands.hessian, operands.losses)
    vector = 16 // BYTES[build.pred]
    head = alignment(moved, vector)
    if head is None:
        vector, head = 1, 0
    kernel = elementwise_kernel(build._replace(vector=vector))
    size = operands.y_pred.size
    tiles = -(-max(size // vector, 1) // (build.block * UNROLLED))
    blocks = min(tiles, BLOCKS_EACH * device_of(device).multiprocessors, MOST_BLOCKS)
    arguments = (
        operands.y_true,
        operands.y_pred,
        *(absent(a) for a in (operands.weights, operands.mask)),
        *(absent(a) for a in (operands.gradient, operands.hessian, operands.losses)),
        scratch.partials,
        scratch.ticket,
        absent(value),
        absent(operands.inverse_at),
        np.float64(operands.inverse),
        np.int64(size),
        *divisor(operands.weight_inner),
        *divisor(operands.mask_inner),
        np.int32(min(head, size)),
        *map(np.dtype(build.computing).type, parameters),
    )
    launch(kernel, blocks, arguments, device)
