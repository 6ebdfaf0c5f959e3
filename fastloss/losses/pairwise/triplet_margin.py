"""Triplet margin loss."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ...families.definition import Example, Peers, flag, function_of, non_negative, norm_degree, positive
from ...families.pairwise import RowPairsLoss
from ...formula.distance import NORMS, Norm, norm_of, size
from ...formula.ops import positive_part, product, sign, where
from ...formula.pairs import PairFormula

_LINE = ([[0.0]], [[3.0]], [[4.0]])
_SWAPPED = (3.0, ([[-1.0]], [[2.0]], [[-1.0]]), ([[0.0]], [[0.0]], [[0.0]]))
_PLANE = ([[0.0, 0.0]], [[3.0, 4.0]], [[0.0, 1.0]])
_FLAT = ([[0.0, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]])


@dataclass(frozen=True, kw_only=True)
class TripletMargin(RowPairsLoss):
    """How much nearer to its anchor the positive row should be than the negative one.

    Balntas et al. 2016, doi:10.5244/C.30.119.

    ``max(0, margin + |anchor - positive| - |anchor - negative|)``, as torch's ``triplet_margin_loss``: with p-norms of
    differences to which ``eps`` is added. The gradient of a distance of 0 is 0; that of a largest element
    (``p=inf``), or of the smaller distance (``swap``), is shared by those that are equal.
    """

    margin: float = positive(1.0, "how much nearer")
    p: float = norm_degree(2.0, "degree of the norm")
    eps: float = non_negative(1e-6, "what is added to each difference")
    swap: bool = flag(False, "whether the distance of positive and negative counts where it is the smaller one")

    operands: ClassVar[tuple[str, ...]] = ("anchor", "positive", "negative")
    peers: ClassVar[Peers] = Peers(
        torch="F.triplet_margin_loss(anchor, positive, negative, margin, p, eps, swap, reduction=reduction)",
        # Its eps is added to the sum of powers, which takes no magnitudes.
        optax="optax.losses.triplet_margin_loss(anchor, positive, negative, norm_degree=p, margin=margin, eps=eps)"
        " if p == 2 and eps == 0 and not swap else None",
    )
    examples: ClassVar[tuple[Example, ...]] = (
        Example(
            None,
            _PLANE,
            5.0,
            ([[-0.6, 0.2]], [[0.6, 0.8]], [[0.0, -1.0]]),
            ([[-0.872, 0.072]], [[0.128, 0.072]], [[-1.0, 0.0]]),
            {"eps": 0.0},
        ),
        Example(None, _LINE, *_SWAPPED, {"eps": 0.0, "swap": True}),
        Example(None, _PLANE, 7.0, ([[-1.0, 0.0]], [[1.0, 1.0]], [[0.0, -1.0]]), _FLAT, {"eps": 0.0, "p": 1}),
        Example(None, _PLANE, 4.0, ([[0.0, 0.0]], [[0.0, 1.0]], [[0.0, -1.0]]), _FLAT, {"eps": 0.0, "p": float("inf")}),
        Example(
            None,
            ([[0.0, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]]),
            2.259921049894873,
            ([[-(0.25 ** (1 / 3))] * 2], [[0.25 ** (1 / 3)] * 2], [[0.0, 0.0]]),
            ([[0.25 ** (1 / 3)] * 2], [[0.25 ** (1 / 3)] * 2], [[0.0, 0.0]]),
            {"eps": 0.0, "p": 3},
        ),
        *(Example(None, _LINE, *_SWAPPED, {"eps": 0.0, "p": p, "swap": True}) for p in (1, 3, float("inf"))),
    )

    @classmethod
    def row_formulas(cls) -> dict[str, PairFormula]:
        """A formula for each norm, with and without swap."""
        return _FORMULAS

    def variant(self) -> str:
        """Label of the formula that this configuration uses."""
        return norm_of(self.p) + ("_swapped" if self.swap else "")


def _plain(norm: Norm) -> PairFormula:
    """The formula without swap."""
    parts, length, derivatives = norm

    def peaks(anchor: Any, positive: Any, negative: Any, eps: Any) -> Any:
        near = size(anchor, positive, eps)
        far = size(anchor, negative, eps)
        return near, far

    def statistics(anchor: Any, positive: Any, negative: Any, near: Any, far: Any, eps: Any, p: Any) -> Any:
        near_rest, near_peaks = parts(anchor, positive, eps, near, p)
        far_rest, far_peaks = parts(anchor, negative, eps, far, p)
        return near_rest, near_peaks, far_rest, far_peaks

    def finish(
        near: Any, near_rest: Any, near_peaks: Any, far: Any, far_rest: Any, far_peaks: Any, margin: Any, p: Any
    ) -> Any:
        near_length = length(near, near_rest, near_peaks, p)
        far_length = length(far, far_rest, far_peaks, p)
        level = margin + (near_length - far_length)
        value = positive_part(level)
        active = positive_part(sign(level))
        return value, active, near_length, far_length

    def element(
        anchor: Any, positive: Any, negative: Any, eps: Any, p: Any, active: Any,
        near: Any, near_rest: Any, near_peaks: Any, near_length: Any,
        far: Any, far_rest: Any, far_peaks: Any, far_length: Any,
    ) -> Any:  # fmt: skip
        near_slope, near_bend = derivatives(anchor, positive, eps, near, near_rest, near_peaks, near_length, p)
        far_slope, far_bend = derivatives(anchor, negative, eps, far, far_rest, far_peaks, far_length, p)
        return (
            product(active, near_slope - far_slope), product(active, -near_slope), product(active, far_slope),
            product(active, near_bend - far_bend), product(active, near_bend), product(active, -far_bend),
        )  # fmt: skip

    return PairFormula(peaks, statistics, finish, element, peaks=True)


def _swapped(norm: Norm) -> PairFormula:
    """The formula with swap: ``third`` is the distance of positive and negative, ``share`` the part of ``far``."""
    parts, length, derivatives = norm

    def peaks(anchor: Any, positive: Any, negative: Any, eps: Any) -> Any:
        near = size(anchor, positive, eps)
        far = size(anchor, negative, eps)
        third = size(positive, negative, eps)
        return near, far, third

    def statistics(anchor: Any, positive: Any, negative: Any, near: Any, far: Any, third: Any, eps: Any, p: Any) -> Any:
        near_rest, near_peaks = parts(anchor, positive, eps, near, p)
        far_rest, far_peaks = parts(anchor, negative, eps, far, p)
        third_rest, third_peaks = parts(positive, negative, eps, third, p)
        return near_rest, near_peaks, far_rest, far_peaks, third_rest, third_peaks

    def finish(
        near: Any, near_rest: Any, near_peaks: Any, far: Any, far_rest: Any, far_peaks: Any,
        third: Any, third_rest: Any, third_peaks: Any, margin: Any, p: Any,
    ) -> Any:  # fmt: skip
        near_length = length(near, near_rest, near_peaks, p)
        far_length = length(far, far_rest, far_peaks, p)
        third_length = length(third, third_rest, third_peaks, p)
        share = where(far_length < third_length, 1.0, where(far_length == third_length, 0.5, 0.0))
        level = margin + (near_length - where(far_length < third_length, far_length, third_length))
        value = positive_part(level)
        active = positive_part(sign(level))
        return value, active, share, near_length, far_length, third_length

    def element(
        anchor: Any, positive: Any, negative: Any, eps: Any, p: Any, active: Any, share: Any,
        near: Any, near_rest: Any, near_peaks: Any, near_length: Any,
        far: Any, far_rest: Any, far_peaks: Any, far_length: Any,
        third: Any, third_rest: Any, third_peaks: Any, third_length: Any,
    ) -> Any:  # fmt: skip
        near_slope, near_bend = derivatives(anchor, positive, eps, near, near_rest, near_peaks, near_length, p)
        far_slope, far_bend = derivatives(anchor, negative, eps, far, far_rest, far_peaks, far_length, p)
        third_slope, third_bend = derivatives(positive, negative, eps, third, third_rest, third_peaks, third_length, p)
        rest = 1.0 - share
        return (
            product(active, near_slope - product(share, far_slope)),
            product(active, -near_slope - product(rest, third_slope)),
            product(active, product(share, far_slope) + product(rest, third_slope)),
            product(active, near_bend - product(share, far_bend)),
            product(active, near_bend - product(rest, third_bend)),
            product(active, -product(share, far_bend) - product(rest, third_bend)),
        )

    return PairFormula(peaks, statistics, finish, element, peaks=True)


#: Made once: kernels belong to these very functions.
_FORMULAS = {name: _plain(norm) for name, norm in NORMS.items()}
_FORMULAS |= {f"{name}_swapped": _swapped(norm) for name, norm in NORMS.items()}

triplet_margin = function_of(TripletMargin)
