"""Finding the cluster's other nodes on this network by mDNS/DNS-SD (RFC 6762, 6763).

Each daemon announces an instance `<node id>-<cluster id>._exo-dl._tcp.local.`; so daemons of other clusters are told
apart by name and cost nothing more. What is announced is not believed: it says only where to dial, and mutual TLS then
shows who is there. No multicast on a network is no error: static peers work without.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zeroconf import Error as ZeroconfError
from zeroconf import InterfaceChoice, IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from exo_dl.net.addresses import local_hosts, sort_hosts
from exo_dl.net.identity import is_node_id

__all__ = ["SERVICE_TYPE", "Discovery", "Sighting", "read_sighting"]

SERVICE_TYPE = "_exo-dl._tcp.local."
_VERSION = "1"
_MAX_NODES = 1024
_MAX_NAMES = 8192
_MAX_ADDRESSES = 16
_MAX_TEXT_CHARS = 64
# Names that are being resolved at once; mDNS answers at its own pace.
_MAX_RESOLVING = 32
_RESOLVE_MS = 3000
# A node that died without a goodbye disappears after this.
_TTL_S = 120
_POLL_S = 3.0
_RETRY_S = 30.0
_STOP_S = 2.0
_FLUSH_S = 1.5


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a node said of itself on the local network. Nothing in it is proven.

    `addresses` are IP addresses, link-local IPv6 ones with their scope ("fe80::1%eth0"); at most 16.
    """

    node_id: str
    name: str
    addresses: tuple[str, ...]
    grpc_port: int
    piece_port: int
    version: str
    incarnation: int


def _number(text: str, *, highest: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise ValueError("not a number")
    number = int(text)
    if not 1 <= number <= highest:
        raise ValueError("out of range")
    return number


def _words(text: str) -> str:
    if not (0 < len(text) <= _MAX_TEXT_CHARS and text.isprintable()):
        raise ValueError("not a name")
    return text


def read_sighting(
    properties: Mapping[bytes, bytes | None], *, cluster_id: str, port: int | None, addresses: Sequence[str]
) -> Sighting | None:
    """What a TXT record says, held to its bounds; None for another cluster, another version, or nonsense."""
    try:
        text = {key.decode("ascii"): (value or b"").decode("utf-8") for key, value in list(properties.items())[:32]}
        if text.get("v") != _VERSION or text.get("cl") != cluster_id or not is_node_id(text["id"]):
            return None
        hosts = [address for address in addresses if not ipaddress.ip_address(address).is_multicast]
        if not hosts or port is None:
            return None
        return Sighting(
            node_id=text["id"],
            name=_words(text["name"]),
            addresses=sort_hosts(hosts)[:_MAX_ADDRESSES],
            grpc_port=_number(str(port), highest=65535),
            piece_port=_number(text["pp"], highest=65535),
            version=_words(text["ver"]),
            incarnation=_number(text["inc"], highest=2**63 - 1),
        )
    except (KeyError, ValueError):
        return None


class Discovery:
    """Announces this node and watches for others, on all interfaces, IPv4 and IPv6. Lives on one event loop.

    Args:
        node_id: this node's.
        cluster_id: only nodes that announce the same are seen.
        name: what people call this node.
        version: of exo-dl.
        listen_hosts: what the daemon listens on; empty: everything.
        logger: where trouble goes, once for each kind.
    """

    def __init__(
        self,
        *,
        node_id: str,
        cluster_id: str,
        name: str,
        version: str,
        listen_hosts: Sequence[str] = (),
        logger: logging.Logger | None = None,
    ) -> None:
        self._node_id = node_id
        self._cluster_id = cluster_id
        self._name = name
        self._version = version
        self._listen_hosts = tuple(listen_hosts)
        self._log = logger or logging.getLogger(__name__)
        self._told: set[str] = set()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._hosts: tuple[str, ...] = ()
        self._properties: dict[str, str] = {}
        self._port = 0
        self._on_found: Callable[[Sighting], None] = lambda _: None
        self._on_gone: Callable[[str], None] = lambda _: None
        self._known: dict[str, Sighting | None] = {}
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_MAX_RESOLVING)
        self._watch: asyncio.Task[None] | None = None

    async def start(
        self,
        *,
        grpc_port: int,
        piece_port: int,
        incarnation: int,
        on_found: Callable[[Sighting], None],
        on_gone: Callable[[str], None],
    ) -> None:
        """Begins in the background and returns at once. Where multicast does not work this is logged, and tried again.

        Args:
            grpc_port: announced.
            piece_port: announced.
            incarnation: random at each start of the daemon; announced, so that a restart is seen as a change.
            on_found: called for each node, and again when what it says changes.
            on_gone: called with the id of a node that said goodbye, or whose records ran out.
        """
        self._port = grpc_port
        self._on_found, self._on_gone = on_found, on_gone
        self._properties = {
            "v": _VERSION,
            "id": self._node_id,
            "cl": self._cluster_id,
            "name": self._name,
            "pp": str(piece_port),
            "ver": self._version,
            "inc": str(incarnation),
            "seq": "1",
        }
        library = logging.getLogger("zeroconf")
        if library.level in (logging.NOTSET, logging.WARNING):  # WARNING is what it gives itself.
            # It warns, with a traceback, of each interface that a packet cannot leave by; people cannot act on that.
            library.setLevel(logging.CRITICAL)
        self._watch = asyncio.create_task(self._run())

    async def rekey(self, cluster_id: str) -> None:
        """From now on this node announces another cluster, and sees the nodes of that one only."""
        running, found, gone = self._watch is not None, self._on_found, self._on_gone
        if running:
            await self.stop()
        self._cluster_id = self._properties["cl"] = cluster_id
        self._known.clear()
        self._resolving.clear()
        if running:
            self._on_found, self._on_gone = found, gone
            self._watch = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Takes the announcement back and ends; at most about two seconds."""
        self._on_found = lambda _: None
        self._on_gone = lambda _: None
        tasks = [*self._resolving.values(), *([self._watch] if self._watch is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(_STOP_S):
                await self._close()
        except TimeoutError:
            self._log.warning("mDNS did not end in time; this node may be announced for another %d s", _TTL_S)

    async def _run(self) -> None:
        while True:
            pause = _POLL_S
            try:
                if self._zeroconf is None:
                    await self._open()
                else:
                    await self._refresh(self._zeroconf)
            except (OSError, ZeroconfError, RuntimeError, TimeoutError) as error:
                self._complain("mDNS does not work here (%s); static peers do without it", error)
                await self._close()
                pause = _RETRY_S
            await asyncio.sleep(pause)

    async def _open(self) -> None:
        self._hosts = local_hosts(self._listen_hosts, link_local=True)
        try:
            self._zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.All)
            await self._zeroconf.zeroconf.async_wait_for_start()
        except (OSError, ZeroconfError):  # IPv6 may be switched off.
            await self._close()
            self._zeroconf = AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)
            await self._zeroconf.zeroconf.async_wait_for_start()
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, [SERVICE_TYPE], handlers=[self._heard])
        # The id in the name is random: there is no conflict to probe for, and a restart must not wait for its old self.
        await self._zeroconf.async_register_service(self._announcement(), cooperating_responders=True)

    async def _refresh(self, zeroconf: AsyncZeroconf) -> None:
        if len(zeroconf.zeroconf.cache.cache) > _MAX_NAMES:
            raise RuntimeError(f"more than {_MAX_NAMES} names are announced on this network")
        hosts = local_hosts(self._listen_hosts, link_local=True)
        if hosts == self._hosts:
            return
        self._hosts = hosts
        # Browsers are told of records that come or change, not of an address that is only gone: so something changes.
        self._properties["seq"] = str(int(self._properties["seq"]) + 1)
        await zeroconf.async_update_interfaces()
        # Not awaited to the end: what comes back is the repeated announcement, which runs by itself.
        await zeroconf.async_update_service(self._announcement())

    async def _close(self) -> None:
        zeroconf, browser = self._zeroconf, self._browser
        self._zeroconf = self._browser = None
        if browser is not None:
            await browser.async_cancel()
        if zeroconf is not None:
            with contextlib.suppress(OSError, ZeroconfError):
                await zeroconf.async_close()

    def _announcement(self) -> AsyncServiceInfo:
        return AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self._node_id}-{self._cluster_id}.{SERVICE_TYPE}",
            port=self._port,
            properties=self._properties,
            server=f"exo-dl-{self._node_id}.local.",
            parsed_addresses=list(self._hosts),
            host_ttl=_TTL_S,
            other_ttl=_TTL_S,
        )

    def _heard(self, zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        node_id, _, rest = name.partition("-")
        if rest.lower() != f"{self._cluster_id}.{SERVICE_TYPE}" or not is_node_id(node_id) or node_id == self._node_id:
            return
        if state_change is ServiceStateChange.Removed:
            if (task := self._resolving.pop(node_id, None)) is not None:
                task.cancel()
            if self._known.pop(node_id, None) is not None:
                self._on_gone(node_id)
            return
        if node_id not in self._known and len(self._known) >= _MAX_NODES:
            self._complain("more than %s nodes announce themselves by mDNS; the oldest are forgotten", _MAX_NODES)
            oldest = next(iter(self._known))
            del self._known[oldest]
            if (task := self._resolving.pop(oldest, None)) is not None:
                task.cancel()
        self._known.setdefault(node_id, None)
        if (task := self._resolving.pop(node_id, None)) is not None:
            task.cancel()
        again = state_change is ServiceStateChange.Updated
        work = self._resolve(zeroconf, name, node_id, again=again)
        task = self._resolving[node_id] = asyncio.create_task(work)
        task.add_done_callback(lambda done: self._resolved(node_id, done))

    async def _resolve(self, zeroconf: Any, name: str, node_id: str, *, again: bool) -> None:
        await self._look_up(zeroconf, name, node_id)
        if again:  # Addresses that it no longer has stay in caches for another second (RFC 6762, section 10.2).
            await asyncio.sleep(_FLUSH_S)
            await self._look_up(zeroconf, name, node_id)

    async def _look_up(self, zeroconf: Any, name: str, node_id: str) -> None:
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        async with self._slots:
            if not await info.async_request(zeroconf, _RESOLVE_MS):
                return
        sighting = read_sighting(
            info.properties,
            cluster_id=self._cluster_id,
            port=info.port,
            addresses=info.parsed_scoped_addresses(IPVersion.All)[: 2 * _MAX_ADDRESSES],
        )
        if sighting is not None and sighting.node_id == node_id and sighting != self._known.get(node_id):
            self._known[node_id] = sighting
            self._on_found(sighting)

    def _resolved(self, node_id: str, task: asyncio.Task[None]) -> None:
        if self._resolving.get(node_id) is task:
            del self._resolving[node_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._complain("an mDNS record cannot be read (%s)", error)

    def _complain(self, text: str, *values: object) -> None:
        if text not in self._told:
            self._told.add(text)
            self._log.warning(text, *values)
