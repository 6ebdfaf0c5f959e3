"""The one form of every error message."""

from __future__ import annotations

_LONGEST = 200


def rejected(loss: str, argument: str, rule: str, got: object, hint: str = "") -> str:
    """``<loss>: <argument> must <rule>; got <value>[. <hint>]``, on one line."""
    value = " ".join(str(got).split())
    value = value if len(value) <= _LONGEST else value[: _LONGEST - 3] + "..."
    return f"{loss}: {argument} must {rule}; got {value}" + (f". {hint}" if hint else "")


def forked() -> str:
    """What a child of a process that has used a GPU is told."""
    return "fastloss: a forked process cannot use the GPU that its parent has used; start it with 'spawn'"


def captured() -> str:
    """What a call is told that a graph is to be captured from, and that has class weights yet to send."""
    return "fastloss: call once, with class_weight, on the stream before it is captured"
