"""Calls of the sequence kernel: how many blocks, what they keep, and its arguments in their order."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from .elementwise import Operands, absent
from .launch import MOST_BLOCKS, Workspace, device_of, divisor, empty, launch
from .source import SequenceBuild, sequence_kernel

#: Bytes of global memory that blocks may keep together, unless a single one needs more.
MOST_KEPT = 1 << 30
#: Blocks per multiprocessor at most.
BLOCKS_EACH = 4


class Sequences(NamedTuple):
    """What sequence calls have besides `Operands`; absent arrays are None."""

    label_lengths: Any  # int64, on the device
    frame_counts: Any
    blank: int
    zero_infinity: bool


def run(
    build: SequenceBuild, operands: Operands, sequences: Sequences, value: Any, scratch: Workspace, device: int
) -> None:
    """Launch the kernel, with as many blocks as memory and the device have room for."""
    frames, classes = operands.y_pred.shape[-2:]
    longest, number = operands.y_true.shape[-1], math.prod(operands.y_pred.shape[:-2])
    # Rows of the lattice; without derivatives two take turns. As in `Kept` of ``sequence.cu``.
    rows = frames + 1 if build.grad or build.hess else 2
    numbers, places = 2 * frames + 4 * (rows + 2) * (longest + 1), longest + classes
    at_once = max(1, MOST_KEPT // (8 * numbers))
    blocks = min(number, at_once, BLOCKS_EACH * device_of(device).multiprocessors, MOST_BLOCKS)
    arguments = (
        operands.y_true,
        operands.y_pred,
        *(absent(a) for a in (sequences.label_lengths, sequences.frame_counts, operands.weights, operands.mask)),
        *(absent(a) for a in (operands.gradient, operands.hessian, operands.losses)),
        scratch.partials,
        scratch.ticket,
        absent(value),
        absent(operands.inverse_at),
        np.float64(operands.inverse),
        empty((blocks * numbers,), np.float64),
        empty((blocks * places,), np.int32),
        np.int64(number),
        *map(np.int32, (frames, classes, longest, sequences.blank, sequences.zero_infinity, rows)),
        *divisor(operands.weight_inner),
        *divisor(operands.mask_inner),
    )
    launch(sequence_kernel(build), blocks, arguments, device)
