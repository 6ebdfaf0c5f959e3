"""Several quantiles in one call (see test_quantiles.py) on the GPU backend, in the emulator."""

from test_quantiles import *  # noqa: F403
from through_device import device  # noqa: F401
