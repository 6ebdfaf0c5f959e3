"""Losses of users (see test_user_loss.py) on the GPU backend, in the emulator: formulas that the catalogue lacks."""

from test_user_loss import (  # noqa: F401
    own_registry,
    test_all_calls_of_class_and_function_agree,
    test_examples_hold,
    test_kernels_compute_what_the_definition_says,
    toys,
)
from through_device import device  # noqa: F401
