"""Addresses of this machine and its peers: reading, writing, sorting."""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Iterable, Sequence

import psutil

from exo_dl.errors import UsageError

__all__ = [
    "grpc_target",
    "is_wildcard",
    "join_host_port",
    "local_hosts",
    "parse_host_port",
    "sort_hosts",
    "split_host_port",
]

_MAX_HOST_CHARS = 253


def join_host_port(host: str, port: int) -> str:
    """ "host:port", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str) -> tuple[str, int]:
    """The host and port (1 to 65535) of "host:port" or "[v6]:port". Raises ValueError for anything else."""
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        ipaddress.IPv6Address(host)
    elif ":" in host:
        raise ValueError("an IPv6 address needs brackets: [address]:port")
    if not colon or not host or len(host) > _MAX_HOST_CHARS or not host.isprintable() or set(host) & set(" /@?#"):
        raise ValueError("not host:port")
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and 1 <= int(port_text) <= 65535):
        raise ValueError("the port must be a number from 1 to 65535")
    return host, int(port_text)


def parse_host_port(text: str) -> tuple[str, int]:
    """As `split_host_port`, for what a person typed.

    Raises:
        UsageError: it is no "host:port".
    """
    try:
        return split_host_port(text)
    except ValueError as error:
        what = f"{text[:80]!r} is not the address of a peer: {error}."
        raise UsageError(what, hint="Write it as host:port.") from None


def grpc_target(host: str, port: int) -> str:
    """The gRPC target of an IP address, which no name resolver or proxy gets between. Raises ValueError for a name."""
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return f"ipv4:{host}:{port}"
    return f"ipv6:[{host.replace('%', '%25')}]:{port}"


def is_wildcard(host: str) -> bool:
    """Whether listening on `host` means all interfaces."""
    return host in ("", "*", "0.0.0.0", "::")  # noqa: S104


@functools.lru_cache(maxsize=4096)
def _rank(host: str) -> tuple[int, int]:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return (1, 0)
    order = 3 if address.is_loopback else 2 if address.is_link_local else 0
    return (order, address.version)


def sort_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """Each host once: routable ones first, then names, link-local, loopback; IPv4 before IPv6; else as they came."""
    return tuple(sorted(dict.fromkeys(hosts), key=_rank))


def local_hosts(listen: Sequence[str] = (), *, link_local: bool = False) -> tuple[str, ...]:
    """The IP addresses under which others can reach this machine now.

    Args:
        listen: the addresses that the daemon listens on. Empty, or with a wildcard in it: all interfaces.
        link_local: with IPv6 link-local addresses (without their scope, which means something on this machine only).

    Loopback addresses are given only where there is nothing else.
    """
    chosen = {host for host in listen if not is_wildcard(host)}
    everything = not chosen or len(chosen) < len(set(listen))
    reachable: list[str] = []
    loopback: list[str] = []
    stats = psutil.net_if_stats()
    for interface, entries in psutil.net_if_addrs().items():
        if interface in stats and not stats[interface].isup:
            continue
        for entry in entries:
            if entry.family not in (socket.AF_INET, socket.AF_INET6):
                continue
            host = entry.address.partition("%")[0]
            if not everything and host not in chosen:
                continue
            address = ipaddress.ip_address(host)
            if address.is_loopback:
                loopback.append(host)
            elif link_local or address.version == 4 or not address.is_link_local:
                reachable.append(host)
    return sort_hosts(reachable or loopback)
