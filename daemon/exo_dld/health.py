"""Whether the daemon on this machine serves: ``python -m exo_dld.health``, for the health checks of containers."""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from exo_dl.errors import ExoDlError
from exo_dl.locations import default_state_dir, socket_path, socket_target

__all__ = ["main", "problem"]

_TIMEOUT_S = 2.0


def problem() -> str | None:
    """Why the daemon of this user's state directory does not serve; None when it does."""
    try:
        path = socket_path(default_state_dir())
    except ExoDlError as error:
        return str(error)
    if not path.exists():
        return f"No daemon: there is no socket {path}."
    with grpc.insecure_channel(socket_target(path)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            return f"No answer at {path}: {error.code().name}."
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        return f"The daemon at {path} says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}."
    return None


def main() -> None:
    """Command line: exit code 0 when the daemon serves, else 1 and the reason on stderr."""
    sys.exit(problem())


if __name__ == "__main__":
    main()
