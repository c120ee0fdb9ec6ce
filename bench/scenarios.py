"""The networks that `make bench` measures on, and the least time that each allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.labnet import NodePlan, payload_bytes_per_s
from exo_dl.core.bound import NodeRates, least_time

__all__ = ["BALANCE", "FAULTS", "PARTS", "SPEEDUP", "Scenario", "least_time_s"]

LAN_MBIT = 1000.0
UPLINK_MBIT = 200.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """A network. ``uplink_mbit`` is a link to the hub that all nodes share, in Mbit/s; None: each has its own.

    ``ratio_at_most`` is the project's goal for wall time over least time; None where speed-up is the goal.
    ``killed`` names a node that is killed half-way: what counts then is the time from there on (`bench.killed`).
    ``memory_gib`` is the memory that the nodes say they have: then each gets its layers, and not everything.
    """

    name: str
    nodes: tuple[NodePlan, ...]
    uplink_mbit: float | None = None
    ratio_at_most: float | None = None
    killed: str = ""
    memory_gib: tuple[int, ...] = ()

    @property
    def placement(self) -> tuple[str, ...]:
        """The options of `exo-dl pull` that say who gets what."""
        if not self.memory_gib:
            return ()
        sizes = [f"{plan.name}={gib}GiB" for plan, gib in zip(self.nodes, self.memory_gib, strict=True)]
        return ("--place", "layers", *(word for size in sizes for word in ("--memory", size)))


def _nodes(hub_mbit: Sequence[float]) -> tuple[NodePlan, ...]:
    return tuple(
        NodePlan(f"n{number}", hub_mbit=mbit, lan_mbit=LAN_MBIT) for number, mbit in enumerate(hub_mbit, start=1)
    )


BALANCE = (
    Scenario("home", _nodes([LAN_MBIT] * 4), uplink_mbit=UPLINK_MBIT, ratio_at_most=1.05),
    Scenario("lab", _nodes([100.0] * 4), ratio_at_most=1.05),
    Scenario("mixed", _nodes([200.0, 100.0, 50.0, 25.0]), ratio_at_most=1.07),
)

FAULTS = (Scenario("killed", _nodes([100.0] * 4), ratio_at_most=1.15, killed="n4"),)

PARTS = (Scenario("layers", _nodes([100.0] * 4), ratio_at_most=1.08, memory_gib=(8, 16, 32, 64)),)

SPEEDUP = tuple(Scenario(f"speedup-{count}", _nodes([25.0] * count)) for count in (1, 2, 4, 8))


def least_time_s(scenario: Scenario, model_bytes: int, wants: Mapping[str, int] | None = None) -> float:
    """Seconds that the scenario's network needs at least to bring a model to every node (`core/bound.py`).

    Args:
        scenario: the network.
        model_bytes: what all together want.
        wants: bytes that each node wants; None: all of them everything.
    """
    rates = {
        plan.name: NodeRates(
            hub=payload_bytes_per_s(plan.hub_mbit or 0.0),
            up=payload_bytes_per_s(plan.lan_mbit or 0.0),
            down=payload_bytes_per_s(plan.lan_mbit or 0.0),
        )
        for plan in scenario.nodes
    }
    return least_time(
        union_bytes=model_bytes,
        wants=wants or {plan.name: model_bytes for plan in scenario.nodes},
        rates=rates,
        uplink=None if scenario.uplink_mbit is None else payload_bytes_per_s(scenario.uplink_mbit),
    )
