"""Calls of the kernels of losses of several predictions: how large a grid, and the arguments in their order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .elementwise import BLOCKS_EACH, absent, alignment
from .launch import MOST_BLOCKS, Workspace, device_of, divisor, launch
from .pairwise_source import PairBuild, PairRowBuild, pair_kernel, pair_row_kernel
from .source import BYTES

#: Packs that a thread has under way at once, as ``pairwise.cu`` has it.
UNROLLED = 2
#: Packs of each prediction that a thread holds: 48 registers for three predictions.
PACKS = 4


class Operands(NamedTuple):
    """What one call works on, contiguous and of one layout; absent arrays are None."""

    y_true: Any
    predictions: tuple[Any, ...]
    weights: Any
    weight_inner: int
    mask: Any
    mask_inner: int
    gradients: tuple[Any, ...]
    hessians: tuple[Any, ...]
    losses: Any
    inverse_at: Any  # on the device
    inverse: float  # else: 1 / Z, see `Normalizer` in ``prelude.cuh``

    @property
    def alike(self) -> tuple[Any, ...]:
        """What has the predictions' shape and type."""
        return (*self.predictions, *self.gradients, *self.hessians)

    def arguments(self, value: Any, scratch: Workspace) -> tuple[Any, ...]:
        """As ``PAIR_ARGUMENTS`` in ``pairs.cuh`` has them."""
        return (
            absent(self.y_true),
            *self.predictions,
            *map(absent, (self.weights, self.mask, *self.gradients, *self.hessians, self.losses)),
            scratch.partials,
            scratch.ticket,
            absent(value),
            absent(self.inverse_at),
            np.float64(self.inverse),
            *divisor(self.weight_inner),
            *divisor(self.mask_inner),
        )


def run(
    build: PairBuild, operands: Operands, parameters: list[float], value: Any, scratch: Workspace, device: int
) -> None:
    """Launch the kernel with one loss per element; ``build.vector`` is chosen here, by where the arrays lie."""
    vector = 16 // BYTES[build.pred]
    head = alignment((operands.y_true, *operands.alike, operands.losses), vector)
    if head is None:
        vector, head = 1, 0
    kernel = pair_kernel(build._replace(vector=vector))
    size = operands.predictions[0].size
    tiles = -(-max(size // vector, 1) // (build.block * UNROLLED))
    blocks = min(tiles, BLOCKS_EACH * device_of(device).multiprocessors, MOST_BLOCKS)
    arguments = (
        *operands.arguments(value, scratch),
        np.int64(size),
        np.int32(min(head, size)),
        *map(np.dtype(build.computing).type, parameters),
    )
    launch(kernel, blocks, arguments, device)


def run_rows(
    build: PairRowBuild, operands: Operands, parameters: list[float], value: Any, scratch: Workspace, device: int
) -> None:
    """Launch the kernel with one loss per row; its size is chosen here."""
    first = operands.predictions[0]
    columns = first.shape[-1]
    rows = first.size // columns
    vector = 16 // BYTES[build.pred]
    head = alignment(operands.alike, vector)
    vector, offset = (1, 0) if head is None else (vector, -head % vector)
    build = shaped(build._replace(vector=vector, even=not offset and columns % vector == 0), columns)
    arguments = (
        *operands.arguments(value, scratch),
        np.int64(rows),
        np.int32(columns),
        np.int32(offset),
        *map(np.dtype(build.computing).type, parameters),
    )
    at_once, each = build.block // build.lanes, max(1, 2048 // build.block)
    blocks = min(-(-rows // at_once), each * device_of(device).multiprocessors, MOST_BLOCKS)
    launch(pair_row_kernel(build), blocks, arguments, device)


def shaped(build: PairRowBuild, columns: int) -> PairRowBuild:
    """The kernel for rows of so many columns: some lanes of a warp a row, then a block."""
    packs = -(-columns // build.vector) + (not build.even)
    lanes = next((lanes for lanes in (4, 8, 16, 32) if packs <= lanes), 32)
    block = 128
    if packs > lanes * PACKS:
        lanes = block = next((block for block in (128, 256, 512) if packs <= block * PACKS), 512)
    held = min(-(-packs // lanes), PACKS)
    return build._replace(block=block, lanes=lanes, packs=held, more=packs > lanes * held)
