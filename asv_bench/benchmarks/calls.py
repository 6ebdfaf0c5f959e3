"""What is measured: a frozen list of texts, and how to make a call of one.

asv finds parameters of other commits **by their place in a list**, in a process that imports the commit's own fastloss.
A list made of that commit's registry would compare different losses. So this list is only ever appended to: never sort
it, never remove a line. `ci/sync.py` appends the cases of new losses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: "<loss> <case>": cases of `fastloss.bench.cases` by their names.
CASES = [
    # cases: only ever appended to, by ci/sync.py
    "binary_crossentropy logits-float32-1e5",
    "binary_crossentropy logits-float32-1e7",
    "binary_crossentropy probabilities-float32-1e5",
    "binary_crossentropy probabilities-float32-1e7",
    "binary_focal_crossentropy logits-float32-1e5",
    "binary_focal_crossentropy probabilities-float32-1e5",
    "categorical_crossentropy logits-float32-4096x1000",
    "categorical_crossentropy probabilities-float32-4096x1000",
    "categorical_generalized_cross_entropy logits-float32-4096x1000",
    "categorical_generalized_cross_entropy probabilities-float32-4096x1000",
    "categorical_hinge float32-4096x1000",
    "circle float32-256x128",
    "cosine_similarity float32-4096x1000",
    "ctc log-probabilities-float32-32x200x64",
    "ctc logits-float32-32x200x64",
    "dice logits-float32-4096x1000",
    "dice logits-rows-float32-4096x1000",
    "dice probabilities-float32-4096x1000",
    "dice probabilities-rows-float32-4096x1000",
    "exponential float32-1e5",
    "gamma float32-1e5",
    "hinge float32-1e5",
    "hinge_embedding float32-1e5",
    "huber float32-1e5",
    "huber float32-1e7",
    "kl_divergence logits-float32-4096x1000",
    "kl_divergence probabilities-float32-4096x1000",
    "log_cosh float32-1e5",
    "mean_absolute_error float32-1e5",
    "mean_absolute_error float32-1e7",
    "mean_absolute_percentage_error float32-1e5",
    "mean_squared_error float32-1e5",
    "mean_squared_error float32-1e7",
    "mean_squared_logarithmic_error float32-1e5",
    "multi_margin float32-4096x1000",
    "multilabel_soft_margin float32-4096x1000",
    "nll float32-4096x1000",
    "ntxent float32-256x128",
    "pinball float32-1e5",
    "poisson float32-1e5",
    "poly1_crossentropy float32-4096x1000",
    "smooth_l1 float32-1e5",
    "soft_margin float32-1e5",
    "sparse_categorical_crossentropy logits-float32-4096x1000",
    "sparse_categorical_crossentropy probabilities-float32-4096x1000",
    "squared_hinge float32-1e5",
    "total_variation float32-4096x1000",
    "tversky logits-float32-4096x1000",
    "tversky logits-rows-float32-4096x1000",
    "tversky probabilities-float32-4096x1000",
    "tversky probabilities-rows-float32-4096x1000",
    "tweedie float32-1e5",
    "categorical_focal_crossentropy logits-float32-4096x1000",
    "categorical_focal_crossentropy probabilities-float32-4096x1000",
    "jensen_shannon logits-float32-4096x1000",
    "jensen_shannon probabilities-float32-4096x1000",
    "cosine_embedding float32-4096x1000",
    "gaussian_nll float32-1e5",
    "margin_ranking float32-1e5",
    "triplet_margin float32-4096x1000",
    # end of cases
]
#: Calls whose time is that of the call itself.
SMALL = [
    "mean_squared_error float32-8",
    "binary_crossentropy logits-float32-8",
    "sparse_categorical_crossentropy logits-float32-2x4",
    "ctc logits-float32-1x4x2",
]
#: What is measured with 1 thread and with 2, and on a GPU.
SHARED = [
    "mean_squared_error float32-1e7",
    "binary_crossentropy logits-float32-1e7",
    "sparse_categorical_crossentropy logits-float32-4096x1000",
]


def case_of(name: str) -> Any:
    """The case of that name.

    Raises
    ------
    NotImplementedError
        If this commit has none: asv leaves it out then.
    """
    try:
        from fastloss.bench.cases import all_cases
    except ImportError as error:
        raise NotImplementedError(str(error)) from error
    found = [case for case in all_cases() if f"{case.loss.name} {case.name}" == name]
    if not found:
        message = f"this commit has no {name}"
        raise NotImplementedError(message)
    return found[0]


def call_of(name: str) -> Callable[[], Any]:
    """A call for value and gradient on operands of its own, which it has been made of once: kernels are compiled."""
    import numpy as np

    from fastloss.bench.data import operands

    case = case_of(name)
    y, p = operands(case)
    out = np.empty_like(p)

    def call() -> Any:
        return case.loss.value_and_grad(y, p, out=out)

    call()
    return call
