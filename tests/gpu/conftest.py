"""Makes the CUDA emulator importable: ``import fake_cupy``, and ``emulator.build`` and others for the rest of it."""

import pathlib
import sys

_HERE = pathlib.Path(__file__).parent
for _directory in (_HERE, _HERE / "emulator"):
    if str(_directory) not in sys.path:
        sys.path.append(str(_directory))
