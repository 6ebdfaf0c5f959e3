"""Calls of the rowwise kernels: which sweep, how large a grid, and its arguments in their order.

Few classes go through shared memory, up to about a thousand lie in a warp's registers, more in those of a block, then
in its shared memory, and what is left is read again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .elementwise import Operands, absent, alignment
from .launch import MOST_BLOCKS, SHARED_RESERVED, Device, Workspace, device_of, divisor, launch
from .source import BYTES, RowBuild, rowwise_kernel

#: Classes that a thread takes alone, from shared memory.
SLAB_UP_TO = 32
#: Packs of a row that a lane holds at most: 9 are 1024 classes of float32 that begin anywhere.
WARP_PACKS = 9
#: Packs of a row that a thread of a block holds: 32 registers.
BLOCK_PACKS = 8
#: The same of rows that registers do not hold, which need more registers to go through shared memory.
LONG_PACKS = 4


class Rows(NamedTuple):
    """What rowwise calls have besides `Operands`."""

    rows: int
    classes: int
    class_weights: Any
    class_weight_sum: float
    ignored: int | None


class Shape(NamedTuple):
    """A sweep and its size."""

    sweep: str
    block: int
    lanes: int = 32
    packs: int = 1
    more: bool = False
    shared_bytes: int = 0
    shared_packs: int = 0


def run(
    build: RowBuild, operands: Operands, rows: Rows, parameters: list[float], value: Any, scratch: Workspace,
    device: int,
) -> None:  # fmt: skip
    """Launch the kernel; the sweep and its size are chosen here."""
    vector, offset = _vector(build, operands)
    even = not offset and rows.classes % vector == 0
    found = device_of(device)
    shape = chosen(build, rows.classes, vector, even, found)
    if shape.sweep == "slab" and offset:
        vector, offset = 1, 0  # a slab's packs begin where its rows do
    build = shaped(build._replace(vector=vector, even=even), shape)
    kernel, computing = rowwise_kernel(build), np.dtype(build.computing).type
    arguments = (
        operands.y_true,
        operands.y_pred,
        *(absent(a) for a in (operands.weights, operands.mask, rows.class_weights)),
        *(absent(a) for a in (operands.gradient, operands.hessian, operands.losses)),
        scratch.partials,
        scratch.ticket,
        absent(value),
        absent(operands.inverse_at),
        np.float64(operands.inverse),
        np.int64(rows.rows),
        np.int32(rows.classes),
        np.int32(offset),
        *divisor(operands.weight_inner),
        *divisor(operands.mask_inner),
        np.int64(rows.ignored or 0),
        np.int32(rows.ignored is not None),
        computing(rows.class_weight_sum),
        *((np.int32(shape.shared_packs),) if shape.sweep == "block" else ()),
        *map(computing, parameters),
    )
    at_once = {"slab": shape.block, "warp": shape.block // shape.lanes, "block": 1}[shape.sweep]
    each = max(1, 2048 // shape.block)
    blocks = min(-(-rows.rows // at_once), each * found.multiprocessors, MOST_BLOCKS)
    launch(kernel, blocks, arguments, device, shape.shared_bytes)


def _vector(build: RowBuild, operands: Operands) -> tuple[int, int]:
    """Elements of a pack, and how many lie between an aligned address and the arrays' first element."""
    vector = 16 // BYTES[build.pred]
    dense = None if build.indexed else operands.y_true
    head = alignment((dense, operands.y_pred, operands.gradient, operands.hessian), vector)
    return (1, 0) if head is None else (vector, -head % vector)


def shaped(build: RowBuild, shape: Shape) -> RowBuild:
    """The kernel for a sweep of that size; a slab has no ends of rows."""
    return build._replace(
        sweep=shape.sweep, even=build.even or shape.sweep == "slab", block=shape.block, lanes=shape.lanes,
        packs=shape.packs, more=shape.more,
    )  # fmt: skip


def chosen(build: RowBuild, classes: int, vector: int, even: bool, device: Device) -> Shape:
    """The sweep for rows of so many classes."""
    wide = build.computing == "float64"
    if classes <= SLAB_UP_TO:
        rows = 64 if wide else 128
        slabs = 2 if build.hess or not build.indexed else 1
        return Shape("slab", rows, shared_bytes=rows * (classes | 1) * (8 if wide else 4) * slabs)
    packs = -(-classes // vector) + (not even)
    if packs <= 32 * WARP_PACKS:
        lanes = next(lanes for lanes in (4, 8, 16, 32) if packs <= lanes or lanes == 32)
        return Shape("warp", 128 if wide else 256, lanes, -(-packs // lanes))
    block = next((block for block in (128, 256, 512) if packs <= block * BLOCK_PACKS), None)
    if block is not None:
        return Shape("block", block, packs=-(-packs // block))
    return _long_rows(packs, vector * BYTES[build.pred], device)


def _long_rows(packs: int, pack_bytes: int, device: Device) -> Shape:
    """For rows longer than registers hold: two blocks a multiprocessor, one of which loads while the other stores.

    Unless so much of their rows would not fit that it pushed itself out of the second-level cache; then one block,
    with all the shared memory.
    """
    block, shared = 256, max(0, device.shared_limit // 2 - SHARED_RESERVED)
    left = (packs - block * LONG_PACKS) * pack_bytes - shared
    if 2 * device.multiprocessors * left > device.second_level // 2:
        block, shared = 512, device.shared_limit - SHARED_RESERVED
    shared_packs = min(packs - block * LONG_PACKS, shared // pack_bytes)
    return Shape(
        "block", block, packs=LONG_PACKS, more=True, shared_bytes=shared_packs * pack_bytes, shared_packs=shared_packs
    )
