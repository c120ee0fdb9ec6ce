"""``exo-dl limit`` and ``exo-dl leave``: how much of the network this cluster takes, and going from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from exo_dl.cli.options import common, note, open_client, require_local, run
from exo_dl.errors import UsageError

if TYPE_CHECKING:
    from exo_dl.types import ClusterLimits

__all__ = ["leave", "limit"]

_STOPPED_WITHIN_S = 15.0
_LOOK_EVERY_S = 0.05


def _rate(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """An option's rate in bytes per second; None where it was not given."""
    from exo_dl.core.units import parse_rate

    return None if value is None else parse_rate(value)


@click.command()
@click.option("--hub", callback=_rate, metavar="RATE", help="Most that each node reads from the hub.")
@click.option("--lan", callback=_rate, metavar="RATE", help="Most that each node sends to others, and takes from them.")
@click.option("--lan-up", callback=_rate, metavar="RATE", help="Only what it sends to others.")
@click.option("--lan-down", callback=_rate, metavar="RATE", help="Only what it takes from others.")
@click.option("--cluster-hub", callback=_rate, metavar="RATE", help="Most that all nodes together read from the hub.")
@click.option("--node", "nodes", multiple=True, metavar="NAME", help="Only for this node. Repeatable. [default: all]")
@common
def limit(
    *,
    hub: int | None,
    lan: int | None,
    lan_up: int | None,
    lan_down: int | None,
    cluster_hub: int | None,
    nodes: tuple[str, ...],
    as_json: bool,
    state_dir: str | None,
) -> None:
    """Show the limits on bandwidth, or set them.

    RATE is as in 100Mbit, 12MB/s or none. Limits hold at once, also for pulls that run, and after a restart. Traffic
    between the nodes has no limit unless --lan sets one.
    """
    if lan is not None and (lan_up is not None or lan_down is not None):
        raise UsageError("--lan sets both directions: give it, or --lan-up and --lan-down.")
    given = {
        "hub_bytes_per_s": hub,
        "lan_up_bytes_per_s": lan if lan_up is None else lan_up,
        "lan_down_bytes_per_s": lan if lan_down is None else lan_down,
        "cluster_hub_bytes_per_s": cluster_hub,
    }
    names = [name for value in nodes for name in value.split(",") if name != "all"]
    if names and all(rate is None for rate in (hub, lan, lan_up, lan_down)):
        raise UsageError("--node goes with --hub or --lan.", hint="--cluster-hub is for all nodes together.")
    run(_limit(given, names, as_json=as_json, state_dir=state_dir))


@click.command()
@click.option(
    "--within",
    "within_s",
    type=click.FloatRange(min=0.1, max=3600.0),
    default=10.0,
    metavar="SECONDS",
    help="Longest time to hand over in. [default: 10]",
)
@common
def leave(*, within_s: float, as_json: bool, state_dir: str | None) -> None:
    """Stop this node's daemon in good order.

    What it was to read from the hub goes back to the others at once, and what it alone holds is offered to them before
    it goes. Returns when the daemon has stopped.
    """
    require_local()
    run(_leave(within_s, as_json=as_json, state_dir=state_dir))


async def _limit(given: dict[str, int | None], nodes: Sequence[str], *, as_json: bool, state_dir: str | None) -> None:
    from exo_dl.cli.text import print_json
    from exo_dl.types import as_dict

    async with open_client(state_dir) as client:
        if all(rate is None for rate in given.values()):
            limits = await client.get_limits()
        else:
            limits = await client.set_limits(nodes=nodes, **given)
    if as_json:
        print_json(as_dict(limits))
    else:
        print(_table(limits), flush=True)


def _table(limits: ClusterLimits) -> str:
    from exo_dl.cli.text import human_rate, table

    def rate(bytes_per_s: float) -> str:
        return human_rate(bytes_per_s) if bytes_per_s else "none"

    rows = [
        (
            node.name,
            rate(node.hub_bytes_per_s),
            human_rate(node.hub_share_bytes_per_s) if node.hub_share_bytes_per_s > 1 else "-",
            rate(node.lan_up_bytes_per_s),
            rate(node.lan_down_bytes_per_s),
            human_rate(node.hub_used_bytes_per_s),
        )
        for node in limits.nodes
    ]
    head = f"All nodes together from the hub: {rate(limits.cluster_hub_bytes_per_s)}"
    return f"{head}\n{table(('NAME', 'HUB', 'SHARE', 'LAN UP', 'LAN DOWN', 'READS NOW'), rows)}"


async def _leave(within_s: float, *, as_json: bool, state_dir: str | None) -> None:
    import asyncio

    from exo_dl import locations
    from exo_dl.cli.text import print_json
    from exo_dl.types import as_dict

    base = locations.default_state_dir() if state_dir is None else locations.absolute(state_dir)
    socket = locations.socket_path(base)
    async with open_client(state_dir) as client:
        left = await client.leave(within_s=within_s)
    until = time.monotonic() + _STOPPED_WITHIN_S
    while socket.exists() and time.monotonic() < until:  # noqa: ASYNC110 - another process removes it
        await asyncio.sleep(_LOOK_EVERY_S)
    if as_json:
        print_json(as_dict(left))
        return
    print(f"This node has left after {left.seconds:.1f} s.", flush=True)
    if left.pieces_left:
        note(f"{left.pieces_left} pieces were on this node alone: the others read them from the hub again.")
