"""Formulas that softmax losses share.

With ``kept = exp(x - peak)`` and ``total`` their sum over the row, an element's probability is ``kept / total``. The
sum is taken without one peak (``rest``, total = 1 + rest), so that the distance of a probability from 1 never comes
from a subtraction that cancels.
"""

from __future__ import annotations

from typing import Any

from .ops import Operand, exp_nonpositive, log, log1p, nothing_of, tanh, where


def exponential(x: Operand, peak: Operand) -> Operand:
    """``exp(x - peak)``."""
    return exp_nonpositive(x - peak)


def below_peak(x: Operand, peak: Operand, kept: Operand) -> Operand:
    """The element's exponential if it is no peak, else 0."""
    return where(x == peak, 0.0, kept)


def at_peak(x: Operand, peak: Operand) -> Operand:
    """1 if the element is a peak, else 0."""
    return where(x == peak, 1.0, 0.0)


def missing(kept: Operand, rest: Operand, total: Operand) -> Operand:
    """``total - kept`` without cancellation: the sum of the other elements' exponentials."""
    return where(kept == 1.0, rest, total - kept)


def softmax_sums(x: Operand, peak: Operand) -> tuple[Operand, Operand, Operand]:
    """An element's exponential, and what it adds to the sum of those below the peak and to the number of peaks."""
    kept = exponential(x, peak)
    others = below_peak(x, peak, kept)
    peaks = at_peak(x, peak)
    return kept, others, peaks


def slopes_by_goal(
    goal: Operand,
    kept: Operand,
    rest: Operand,
    total: Operand,
    share: Operand,
    mass: Operand,
    peak_goals: Operand,
    other_goals: Operand,
) -> tuple[Operand, Operand]:
    """Gradient and Hessian of ``-sum(goal log p)`` by a logit; ``mass`` is the sum of goals, ``share`` 1 / total."""
    # mass kept - goal total at a peak: the goals of all others, less what the others take of this one.
    at_peak_grad = (other_goals + (peak_goals - goal)) - goal * rest
    grad = where(kept == 1.0, at_peak_grad, mass * kept - goal * total) * share
    return grad, mass * kept * share * (missing(kept, rest, total) * share)


def log_sum(peak: Operand, rest: Operand) -> Operand:
    """Logarithm of the sum of all ``exp(x)``."""
    return peak + log1p(rest)


def log_total(total: Operand) -> Operand:
    """The same of probabilities' logarithms."""
    return log(total)


# -- links: what logits go through first -----------------------------------------------------------------------------
#
# What they give ends with a division, which no compiler contracts with what follows: a peak must equal its element's
# to the bit.


def heated(x: Operand, temperature: Operand) -> Any:
    """Logits over a temperature."""
    linked = x / temperature
    slope = 1.0 / temperature
    curvature = 0.0
    return linked, slope, curvature


def capped(x: Operand, softcap: Operand, temperature: Operand) -> Any:
    """``softcap tanh(x / softcap)`` over a temperature."""
    part = x / softcap
    bent = tanh(part)
    linked = softcap * bent / temperature
    # 1 - bent^2, which would cancel, by the exponential that tanh is made of.
    tail = exp_nonpositive(-2.0 * abs(part))
    slope = 4.0 * tail / ((1.0 + tail) * (1.0 + tail)) / temperature
    curvature = -2.0 * bent * slope / softcap
    return linked, slope, curvature


# -- a penalty: z_loss log_sum_exp^2 ---------------------------------------------------------------------------------


def squared_log_sum(peak: Operand, rest: Operand, total: Operand, z_loss: Operand) -> Any:
    """Its value, its slope by log_sum_exp over ``total``, and what bends it."""
    log_sum_exp = log_sum(peak, rest)
    cost = z_loss * log_sum_exp * log_sum_exp
    pull = 2.0 * z_loss * log_sum_exp / total
    bend = 2.0 * z_loss / (total * total)
    return cost, pull, bend


def squared_log_sum_element(kept: Operand, rest: Operand, total: Operand, pull: Operand, bend: Operand) -> Any:
    """Its gradient and Hessian."""
    return pull * kept, kept * (pull * (missing(kept, rest, total) / total) + bend * kept)


def squared_log_sum_target(
    target_x: Operand, peak: Operand, rest: Operand, total: Operand, pull: Operand, bend: Operand
) -> Any:
    """The same for the true class."""
    return squared_log_sum_element(exponential(target_x, peak), rest, total, pull, bend)


# -- losses that are a sum over the classes of terms h(log p) ---------------------------------------------------------
#
# With a term's slope h' and curvature h'', the derivatives by its logit are ``h' (1 - p) - p (the other slopes)`` and
# ``h'' (1 - p)^2 + p^2 (the other curvatures) - p (1 - p) (all slopes)``. Sums are taken apart at the peaks and below
# them, so that the others' sum is nowhere a difference that cancels. ``kept``, which is flushed to 0 where a logarithm
# of p still makes much of it, is multiplied last: of a curvature, ``bend`` is that over p / (1 - p).


def shares(others: Operand, peaks: Operand) -> Any:
    """What comes between the rounds: log p is ``(x - peak) - level``, p is ``kept share``."""
    rest = others + (peaks - 1.0)
    total = 1.0 + rest
    share = 1.0 / total
    level = log1p(rest)
    return rest, total, share, level


def parted(x: Operand, peak: Operand, term: Operand) -> Any:
    """What a term adds to the sum at the peaks, and to that below them."""
    return where(x == peak, term, 0.0), where(x == peak, 0.0, term)


def finish_terms(
    cost: Operand, rest: Operand, total: Operand, share: Operand, level: Operand,
    peak_slopes: Operand, other_slopes: Operand, peak_curvatures: Operand, other_curvatures: Operand,
) -> Any:  # fmt: skip
    """The row's loss, and all that `slopes_of_terms` wants."""
    value = cost + 0.0 * level  # a NaN shows
    nothing = nothing_of(value)
    return value, nothing, rest, total, share, level, peak_slopes, other_slopes, peak_curvatures, other_curvatures


def slopes_of_terms(
    kept: Operand, away: Operand, share: Operand, slope: Operand, curvature: Operand, bend: Operand,
    peak_slopes: Operand, other_slopes: Operand, peak_curvatures: Operand, other_curvatures: Operand,
) -> Any:  # fmt: skip
    """Gradient and Hessian by one logit; ``away`` is 1 - p."""
    peak = kept == 1.0
    pull = where(peak, other_slopes + (peak_slopes - slope), peak_slopes + (other_slopes - slope))
    bent = where(
        peak, other_curvatures + (peak_curvatures - curvature), peak_curvatures + (other_curvatures - curvature)
    )
    across = (bend - (peak_slopes + other_slopes)) * away + kept * (share * bent)
    return slope * away - kept * (share * pull), kept * (share * across)
