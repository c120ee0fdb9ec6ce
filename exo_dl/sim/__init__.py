"""Simulated clusters: the real core on a simulated network, deterministic from a seed."""

from __future__ import annotations

try:
    import numpy  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("The simulator needs numpy: pip install 'exo-dl[dev]'") from error

__all__: list[str] = []
