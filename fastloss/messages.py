"""The one form of every error message."""

from __future__ import annotations

_LONGEST = 200


def rejected(loss: str, argument: str, rule: str, got: object, hint: str = "") -> str:
    """``<loss>: <argument> must <rule>; got <value>[. <hint>]``, on one line."""
    value = " ".join(str(got).split())
    value = value if len(value) <= _LONGEST else value[: _LONGEST - 3] + "..."
    return f"{loss}: {argument} must {rule}; got {value}" + (f". {hint}" if hint else "")
