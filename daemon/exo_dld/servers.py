"""The gRPC server: a port for other machines with mutual TLS, and a Unix socket for this user's commands."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from exo_dl import locations
from exo_dl.errors import AlreadyRunningError, StorageError
from exo_dld.link import GRPC_OPTIONS

__all__ = ["add_standard_services", "bind_port", "bind_socket", "make_server"]

_MAX_CONCURRENT_RPCS = 1024
# What strangers can take up: connections that do not finish their handshake are few and short.
_BOUNDS: tuple[tuple[str, int], ...] = (
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_allowed_incoming_connections", 2_048),
    ("grpc.max_concurrent_streams", 128),
)


def make_server(gate: grpc.aio.ServerInterceptor[Any, Any]) -> grpc.aio.Server:
    """A server without ports. Two daemons never share one port unnoticed; ``gate`` stands before every call."""
    options = [*GRPC_OPTIONS, *_BOUNDS]
    return grpc.aio.server(interceptors=[gate], options=options, maximum_concurrent_rpcs=_MAX_CONCURRENT_RPCS)


async def add_standard_services(server: grpc.aio.Server, names: Sequence[str]) -> None:
    """Health ("serving" for every service) and reflection, so that any client can look around."""
    servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    for name in ("", *names):
        await servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)


def bind_port(
    server: grpc.aio.Server, host: str, port: int, *, chosen: bool, credentials: Callable[[], grpc.ServerCredentials]
) -> int:
    """Listens for other machines, and returns the port.

    Args:
        server: not started yet.
        host: an address of this machine; empty: all of them.
        port: 0 for any.
        chosen: somebody asked for this port: no other will do.
        credentials: mutual TLS; asked for each attempt, since those that follow a certificate's renewal serve for one.

    Raises:
        AlreadyRunningError: the port is taken.
    """
    hosts = [host] if host else (["[::]", "0.0.0.0"] if _has_ipv6() else ["0.0.0.0"])  # noqa: S104
    text = [f"[{h}]" if ":" in h and not h.startswith("[") else h for h in hosts]
    for candidate in (port,) if chosen or port == 0 else (port, 0):
        for name in text:
            with contextlib.suppress(RuntimeError):
                if bound := server.add_secure_port(f"{name}:{candidate}", credentials()):
                    return bound
    raise AlreadyRunningError(
        f"Port {port} on {host or 'this machine'} cannot be used: another program has it, or the address is not here.",
        hint="Choose another one with --port (0: any that is free).",
    )


def bind_socket(server: grpc.aio.Server, path: Path, *, group: int | None = None) -> None:
    """Listens on the Unix socket, which only this user can open, and the ``group`` where there is one.

    The kernel checks who connects, by the mode of the socket and of its folder; `exo_dld.doorway` asks it again.

    Raises:
        StorageError: its folder cannot be used, or not be opened to the group.
    """
    locations.prepare_socket_dir(path)
    if group is not None:
        _open_folder(path, group)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # the lock on the state directory says that nobody listens there
    before = os.umask(0o177)
    try:
        server.add_insecure_port(locations.socket_target(path))
        if group is not None:
            os.chown(path, -1, group)
        os.chmod(path, 0o600 if group is None else 0o660)
    except (RuntimeError, OSError) as error:
        raise StorageError(f"The socket {path} cannot be made: {error}.", hint="Choose another --state-dir.") from error
    finally:
        os.umask(before)


def _open_folder(path: Path, group: int) -> None:
    """Lets a group reach the socket by its name. It can list nothing there, and read no other file."""
    folder = path.parent
    if path.name != "daemon.sock":
        raise StorageError(
            f"The socket {path} is in a place of this user alone, so `socket_group` cannot be kept.",
            hint="Choose a state directory with a shorter path with --state-dir.",
        )
    try:
        for file in folder.iterdir():
            if file.is_file() and not file.is_symlink():
                os.chmod(file, 0o600)
        os.chown(folder, -1, group)
        os.chmod(folder, 0o710)  # noqa: S103 - to go through, not to look into
    except OSError as error:
        raise StorageError(
            f"The folder {folder} cannot be opened to the group {group}: {error.strerror}.",
            hint="The daemon's user must be a member of `socket_group`.",
        ) from error


def _has_ipv6() -> bool:
    if not socket.has_ipv6:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return True
    return False
