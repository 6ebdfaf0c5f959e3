"""The same on a GPU, where there is one; elsewhere left out, with the reason."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .calls import SHARED, case_of


def cupy_with_a_device() -> Any:
    """CuPy, if it sees a GPU."""
    try:
        cupy = import_module("cupy")
        cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        message = f"no GPU: {' '.join(str(error).split())}"
        raise NotImplementedError(message) from error
    return cupy


class Gpu:
    """Value and gradient, from the call until the device has done."""

    version = "1"
    params = (SHARED,)
    param_names = ("case",)

    def setup(self, case: str) -> None:
        """Compile, and copy the operands."""
        cupy = cupy_with_a_device()
        from fastloss.bench.data import operands

        found = case_of(case)
        loss, arrays = found.loss, [cupy.asarray(side) for side in operands(found)]
        out = cupy.empty_like(arrays[1])

        def call() -> None:
            loss.value_and_grad(*arrays, out=out)
            cupy.cuda.get_current_stream().synchronize()

        call()
        self.call = call

    def time_value_and_grad(self, case: str) -> None:
        """Seconds of a call."""
        self.call()
