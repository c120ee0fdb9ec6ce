"""The errors of exo-dl. Each class has an exit code for the CLI and a gRPC status name for the services.

A message says what failed and with which value; `hint` says what to do about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

__all__ = [
    "AccessError",
    "AlreadyRunningError",
    "CancelledPullError",
    "DaemonUnavailableError",
    "ExoDlError",
    "FormatError",
    "HubBusyError",
    "HubError",
    "IntegrityError",
    "NoRoomError",
    "NotFoundError",
    "PlacementError",
    "ProtocolError",
    "PullFailedError",
    "StorageError",
    "UnknownStructureError",
    "UsageError",
    "error_for_status",
]


class ExoDlError(Exception):
    """Base of all errors that a person may see.

    Args:
        what: what failed, with the value that it failed on.
        hint: what the person can do; empty when there is nothing to add.
    """

    exit_code: ClassVar[int] = 1
    status: ClassVar[str] = "INTERNAL"

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what} {self.hint}".rstrip() if self.hint else self.what


class UsageError(ExoDlError):
    """A value given by the user (argument, setting, name, glob) cannot be used."""

    exit_code = 2
    status = "INVALID_ARGUMENT"


class PlacementError(UsageError):
    """A placement that cannot be carried out as asked: unknown nodes, more nodes than layers, a plan against itself."""


class UnknownStructureError(UsageError):
    """A model whose parts cannot be told from their names: it can be moved as whole files only."""


class NotFoundError(ExoDlError):
    """A model, revision, pull or node that does not exist."""

    exit_code = 3
    status = "NOT_FOUND"


class AccessError(ExoDlError):
    """The hub or a peer refused: no token, a gated model, a licence that was not accepted."""

    exit_code = 4
    status = "PERMISSION_DENIED"


class HubError(ExoDlError):
    """The hub cannot be reached, or gave an answer that cannot be used."""

    exit_code = 5
    status = "UNAVAILABLE"


class HubBusyError(HubError):
    """The hub asked to wait (429, 503). `retry_after_s` is what it asked for."""

    def __init__(self, what: str, *, retry_after_s: float, hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.retry_after_s = retry_after_s


class DaemonUnavailableError(ExoDlError):
    """No daemon answers where one was expected."""

    exit_code = 6
    status = "FAILED_PRECONDITION"


class StorageError(ExoDlError):
    """A disk that is full, a folder that cannot be written, a damaged state database."""

    exit_code = 7
    status = "RESOURCE_EXHAUSTED"


class NoRoomError(StorageError):
    """Nodes whose share does not fit their memory or disk. `short` says for each by how many bytes."""

    def __init__(self, what: str, *, short: Mapping[str, int], hint: str = "") -> None:
        super().__init__(what, hint=hint)
        self.short = dict(short)


class IntegrityError(ExoDlError):
    """Bytes that do not have the digest that they must have."""

    exit_code = 8
    status = "DATA_LOSS"


class FormatError(IntegrityError):
    """A header or an index that is damaged, contradicts itself, or does not fit the file that it describes."""


class PullFailedError(ExoDlError):
    """A pull ended without every target node having everything."""

    exit_code = 9
    status = "ABORTED"


class CancelledPullError(ExoDlError):
    """The pull was cancelled."""

    exit_code = 10
    status = "CANCELLED"


class AlreadyRunningError(ExoDlError):
    """A second daemon on one state directory, or a port that another program holds."""

    exit_code = 11
    status = "ALREADY_EXISTS"


class ProtocolError(ExoDlError):
    """A peer sent something that the protocol does not allow."""

    exit_code = 12
    status = "OUT_OF_RANGE"


_BY_STATUS: dict[str, type[ExoDlError]] = {
    cls.status: cls
    for cls in (
        UsageError,
        NotFoundError,
        AccessError,
        HubError,
        DaemonUnavailableError,
        StorageError,
        IntegrityError,
        PullFailedError,
        CancelledPullError,
        AlreadyRunningError,
        ProtocolError,
    )
}


def error_for_status(status: str, message: str) -> ExoDlError:
    """The error that a gRPC status name stands for; `ExoDlError` for names that no class has."""
    if status == "UNAUTHENTICATED":
        return AccessError(message)
    return _BY_STATUS.get(status, ExoDlError)(message)
