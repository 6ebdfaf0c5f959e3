"""Value and gradient of every loss: time, time per element, peak memory."""

from __future__ import annotations

import statistics
import time

from .calls import CASES, call_of, case_of


class Losses:
    """Each loss at a size that its users have."""

    version = "1"
    params = (CASES,)
    param_names = ("case",)

    def setup(self, case: str) -> None:
        """Compile, and make the operands."""
        self.call = call_of(case)
        self.elements = case_of(case).elements

    def time_value_and_grad(self, case: str) -> None:
        """Seconds of a call."""
        self.call()

    def track_ns_per_element(self, case: str) -> float:
        """Median over 9 samples: less is better, as asv takes it for granted of everything that is tracked."""
        samples = []
        for _ in range(9):
            calls, began = 0, time.perf_counter()
            while calls == 0 or time.perf_counter() - began < 0.02:
                self.call()
                calls += 1
            samples.append((time.perf_counter() - began) / calls)
        return statistics.median(samples) / self.elements * 1e9

    track_ns_per_element.unit = "ns/element"

    def peakmem_value_and_grad(self, case: str) -> None:
        """Bytes of the process, operands among them."""
        self.call()
