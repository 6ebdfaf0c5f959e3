"""What a call may ask for, and the settings of the backend that answers: so far the NumPy backend alone."""

from __future__ import annotations

#: What a call may ask for, combined by ``|``.
VALUE, GRAD, HESS = 1, 2, 4


def set_num_threads(count: int) -> None:
    """Use at most ``count`` threads per call, the caller's included; results are the same bits for any count.

    Raises
    ------
    ValueError
        If ``count`` is not an integer of 1 or more.

    Examples
    --------
    >>> import fastloss as fl
    >>> before = fl.get_num_threads()
    >>> fl.set_num_threads(1)
    >>> fl.get_num_threads()
    1
    >>> fl.set_num_threads(before)
    """
    from .cpu import pool

    pool.set_num_threads(count)


def get_num_threads() -> int:
    """Threads that a large call may use, the caller's included.

    Examples
    --------
    >>> import fastloss as fl
    >>> fl.get_num_threads() >= 1
    True
    """
    from .cpu import pool

    return pool.get_num_threads()
