"""The catalogue: ``losses/<family>/<loss>.py``, one file per loss."""

from ..families.loss import Loss, registry

__all__ = ["Loss", "registry"]
