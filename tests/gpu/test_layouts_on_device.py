"""Strides, orders, types of targets, in place (see test_layouts.py) on the GPU backend, in the emulator."""

from test_layouts import *  # noqa: F403
from through_device import device  # noqa: F401
