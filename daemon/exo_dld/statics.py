"""Peers that a setting names by address: found again and again, as their node id may change with a reinstall."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable

from exo_dl.net.addresses import parse_host_port
from exo_dl.net.identity import Identity
from exo_dl.rpc.v1.swarm_pb2 import Beat
from exo_dld.dial import DialError, connect_any, resolve
from exo_dld.link import Timing
from exo_dld.peerbook import UNREACHABLE, PeerInfo, PeerRecord

__all__ = ["StaticPeer"]

# This node's own address among the static peers is no mistake: one list may serve all machines.
_SELF_CHECK_S = 60.0


class StaticPeer:
    """One "host:port" of the settings. Raises UsageError where it is none."""

    def __init__(self, text: str) -> None:
        self._host, self._port = parse_host_port(text)
        self._text = text
        self._node_id = ""
        self._problem = ""

    def info(self) -> PeerInfo | None:
        """What to show for it as long as no node ever answered there; None once one did."""
        if self._node_id:
            return None
        return PeerInfo(
            id="",
            name=self._text,
            state=UNREACHABLE,
            addresses=(self._text,),
            version="",
            beat=Beat(),
            last_seen_s=math.inf,
            problem=self._problem or "Not reached yet.",
            piece_address=None,
            incarnation=0,
        )

    async def tend(
        self,
        *,
        identity: Identity,
        timing: Timing,
        need: Callable[[str], PeerRecord | None],
        changed: Callable[[], None],
    ) -> None:
        """Asks who is at the address whenever the node that was there is not linked. Runs until cancelled.

        Args:
            identity: this node's.
            timing: of links.
            need: gives the record of a node id; None for this node itself.
            changed: called when `info` may have changed.
        """
        delay = timing.redial_min_s
        record: PeerRecord | None = None
        while True:
            answer = await self._identify(identity, timing)
            changed()
            if answer is None:
                delay = min(delay * 2, timing.redial_max_s)
                await asyncio.sleep(delay)
                continue
            found = need(self._node_id)
            if record is not None and record is not found:
                record.static.pop(self._text, None)
            record = found
            if record is None:
                await asyncio.sleep(_SELF_CHECK_S)
                continue
            record.static[self._text] = answer
            if not record.linked:
                record.wake.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(timing.redial_max_s):
                        await record.up.wait()
            if record.linked:
                delay = timing.redial_min_s
                await record.down.wait()

    async def _identify(self, identity: Identity, timing: Timing) -> tuple[str, int] | None:
        try:
            addresses = await resolve(self._host, self._port, timeout_s=timing.dial_s)
            connected = await connect_any(addresses, identity=identity, expect=None, timeout_s=timing.dial_s)
        except DialError as error:
            self._problem = str(error)
            return None
        await connected.channel.close(None)
        self._node_id = connected.node_id
        return connected.host, connected.port
