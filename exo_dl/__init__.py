"""exo-dl: every machine of a cluster gets a model, and each byte is read from the hub once.

`Client` speaks to the daemon (`exo-dld`) on this machine. Names are loaded when they are first used, so that
``import exo_dl`` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exo_dl.client import Client
    from exo_dl.errors import ExoDlError
    from exo_dl.types import (
        ClusterLimits,
        Departure,
        FileCheck,
        LoopLag,
        Model,
        NodeLease,
        NodeLimits,
        NodeMetrics,
        NodePlan,
        NodePull,
        NodeState,
        Peer,
        PeerState,
        Placement,
        Pull,
        PullPlan,
        PullState,
        StartedPull,
    )

__all__ = [
    "Client",
    "ClusterLimits",
    "Departure",
    "ExoDlError",
    "FileCheck",
    "LoopLag",
    "Model",
    "NodeLease",
    "NodeLimits",
    "NodeMetrics",
    "NodePlan",
    "NodePull",
    "NodeState",
    "Peer",
    "PeerState",
    "Placement",
    "Pull",
    "PullPlan",
    "PullState",
    "StartedPull",
    "__version__",
]

__version__ = "0.1.0"

_HOME = {"Client": "exo_dl.client", "ExoDlError": "exo_dl.errors"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'exo_dl' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME.get(name, "exo_dl.types")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
