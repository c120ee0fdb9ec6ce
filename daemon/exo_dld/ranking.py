"""Which address of a peer with several is the fastest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence

from exo_dl.net.identity import Identity
from exo_dl.rpc.v1.swarm_pb2 import Hello
from exo_dld.dial import DialError, ProbeBusyError, connect_any, measure

__all__ = ["rank_hosts"]

_PROBE_BYTES = 256 << 10
_PROBE_PATH = f"/v1/probe/{_PROBE_BYTES}"
_CONNECT_S = 1.0
_PROBE_S = 2.0
_RUNS = 2
_MAX_HOSTS = 8
# The address in use is left only for one that is this much faster: two ways of one speed must not take turns.
_KEEP_FACTOR = 1.25
_KEEP_S = 0.0002
_BUSY_PAUSE_S = 1.0
_BUSY_ROUNDS = 20


async def rank_hosts(
    hosts: Sequence[str],
    *,
    hello: Hello,
    identity: Identity,
    probe_headers: Callable[[str, str], Mapping[str, str]] | None,
) -> tuple[str, ...]:
    """The addresses of a peer that lead to it, the fastest first.

    Each is first checked to be that peer's by its certificate: the same private address may be another machine's here.

    Args:
        hosts: its addresses, the one in use first.
        hello: the peer's.
        identity: this node's.
        probe_headers: (method, path) -> headers for a probe; None: only the time to connect is measured.

    Returns:
        Empty where nothing could be measured, or there is nothing to choose.
    """
    if len(hosts) < 2:
        return ()
    for _ in range(_BUSY_ROUNDS):
        try:
            times: dict[str, float] = {}
            for host in hosts[:_MAX_HOSTS]:
                seconds = await _time_of(host, hello=hello, identity=identity, probe_headers=probe_headers)
                if seconds is not None:
                    times[host] = seconds / _KEEP_FACTOR - _KEEP_S if host == hosts[0] else seconds
            return tuple(sorted(times, key=times.__getitem__))
        except ProbeBusyError:
            await asyncio.sleep(_BUSY_PAUSE_S * random.uniform(0.5, 1.5))  # noqa: S311 - peers must not meet again
    return ()


async def _time_of(
    host: str, *, hello: Hello, identity: Identity, probe_headers: Callable[[str, str], Mapping[str, str]] | None
) -> float | None:
    """Seconds that a probe takes there; None where it is not that peer's, or not reached."""
    address = [(host, hello.grpc_port)]
    try:
        connected = await connect_any(address, identity=identity, expect=hello.node_id, timeout_s=_CONNECT_S)
        await connected.channel.close(None)
        times = []
        for _ in range(_RUNS):
            headers = None if probe_headers is None else probe_headers("GET", _PROBE_PATH)
            times.append(await measure(host, hello.piece_port, path=_PROBE_PATH, headers=headers, timeout_s=_PROBE_S))
        return min(times)
    except (DialError, OSError):
        return None
