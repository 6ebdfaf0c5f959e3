"""What a call costs besides its arithmetic, and what threads gain."""

from __future__ import annotations

from .calls import SHARED, SMALL, call_of


class Overhead:
    """Calls of a few elements."""

    version = "1"
    params = (SMALL,)
    param_names = ("case",)

    def setup(self, case: str) -> None:
        """Compile, and make the operands."""
        self.call = call_of(case)

    def time_value_and_grad(self, case: str) -> None:
        """Seconds of a call."""
        self.call()


class Threads:
    """One thread, and two."""

    version = "1"
    params = (SHARED, [1, 2])
    param_names = ("case", "threads")

    def setup(self, case: str, threads: int) -> None:
        """Compile, make the operands, and limit the threads."""
        import fastloss as fl

        if threads > fl.get_num_threads():
            message = f"fewer than {threads} processors"
            raise NotImplementedError(message)
        fl.set_num_threads(threads)
        self.call = call_of(case)

    def time_value_and_grad(self, case: str, threads: int) -> None:
        """Seconds of a call."""
        self.call()
