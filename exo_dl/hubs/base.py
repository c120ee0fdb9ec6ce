"""What the rest of exo-dl needs from a model hub: the files of a commit, and where their bytes are.

A hub is used from threads: its methods block, and may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit

from exo_dl.core.manifest import Manifest
from exo_dl.errors import UsageError

__all__ = ["DEFAULT_REVISION", "REPO_TYPES", "Hub", "Origin", "Resolved", "origin_of", "same_origin"]

DEFAULT_REVISION = "main"
REPO_TYPES = ("model", "dataset", "space")

Origin = tuple[str, str, int]
"""Scheme, host and port of a URL: what a token belongs to."""

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a hub answered about a model.

    Attributes:
        manifest: the selected files at the pinned commit.
        revision: the branch, tag or commit that was asked for; ``refs/<revision>`` is written from it.
        endpoint: the hub's base URL, without a trailing "/".
        gated: the repository is gated or private: its bytes are not for everybody.
    """

    manifest: Manifest
    revision: str
    endpoint: str
    gated: bool


class Hub(Protocol):
    """A place that has models."""

    @property
    def endpoint(self) -> str:
        """The base URL, without a trailing "/"."""

    def resolve(
        self,
        repo: str,
        revision: str = DEFAULT_REVISION,
        repo_type: str = "model",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> Resolved:
        """Asks the hub once for the commit behind ``revision`` and its files.

        Args:
            repo: "org/name" or "name".
            revision: branch, tag or commit.
            repo_type: one of `REPO_TYPES`.
            include: globs as `hf download --include` has them; none selects every file.
            exclude: globs of files to leave out.

        Raises:
            UsageError: a name that no hub allows, or globs that select nothing.
            NotFoundError: no such repository or revision.
            AccessError: gated or private, without a token that may read it.
            HubBusyError: the hub asks to wait.
            HubError: no answer, or one that cannot be used.
        """

    def check_access(self, manifest: Manifest) -> None:
        """Asks the hub whether a file of a resolved model may be read.

        Raises:
            AccessError, NotFoundError: it may not, with the token that there is.
            HubBusyError, HubError: as `resolve`.
        """

    def file_url(self, manifest: Manifest, path: str) -> str:
        """Where the bytes of ``path`` at the manifest's commit are read. It may redirect."""

    def headers_for(self, url: str) -> dict[str, str]:
        """Headers for a request to ``url``. The token is among them only where ``url`` has the hub's own origin."""


def origin_of(url: str) -> Origin:
    """Scheme, host and port of ``url``, in lower case and with the scheme's port filled in.

    Raises:
        UsageError: ``url`` is no http or https URL with a host.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    scheme = parts.scheme.lower()
    if scheme not in _DEFAULT_PORTS or not host:
        raise UsageError(f"{url[:200]!r} is no http or https URL.")
    return scheme, host.lower().rstrip("."), _DEFAULT_PORTS[scheme] if port is None else port


def same_origin(url: str, other: str) -> bool:
    """Whether two URLs have the same scheme, host and port."""
    return origin_of(url) == origin_of(other)
