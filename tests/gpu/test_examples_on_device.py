"""The hand-computed examples (see test_examples.py) on the GPU backend, in the emulator."""

from test_examples import *  # noqa: F403
from through_device import device  # noqa: F401
