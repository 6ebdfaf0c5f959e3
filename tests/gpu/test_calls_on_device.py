"""The calls' tests of the NumPy backend (see test_calls.py) on the GPU backend, in the emulator."""

from test_calls import *  # noqa: F403
from through_device import device  # noqa: F401
