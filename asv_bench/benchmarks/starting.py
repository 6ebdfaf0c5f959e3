"""The import, and the first call of a process: with no kernel kept on disk, and with its own."""

from __future__ import annotations

FIRST_CALL = "import fastloss; fastloss.huber.value_and_grad([0.0], [1.0])"
FOLDER = "import os, subprocess, sys, tempfile; os.environ['FASTLOSS_CACHE_DIR'] = tempfile.mkdtemp()"
FILLED = f"{FOLDER}; subprocess.run([sys.executable, '-c', {FIRST_CALL!r}], check=True)"


class Starting:
    """Each in a process of its own."""

    version = "1"
    number = 1
    repeat = 7
    warmup_time = 0.0

    def timeraw_import(self) -> str:
        """Import fastloss, and NumPy with it."""
        return "import fastloss"

    def timeraw_first_call_compiled(self) -> tuple[str, str]:
        """Import Numba, compile a kernel, call it."""
        return FIRST_CALL, FOLDER

    def timeraw_first_call_found(self) -> tuple[str, str]:
        """Read the kernel, call it."""
        return FIRST_CALL, FILLED
