"""What another node may have this one do: into which folders it writes, and which hub it reads from.

A command on this machine may name any folder that its user may write. An offer from another node is only as trustworthy
as that node, so it is held to what the settings say; see docs/adr for the reasons.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exo_dl.errors import AccessError, UsageError
from exo_dl.hubs.base import same_origin
from exo_dl.hubs.huggingface import DEFAULT_ENDPOINT
from exo_dld.messages import PullSpec
from exo_dld.requests import check_layout

__all__ = ["DEFAULT_DIRS", "OfferRules"]

DEFAULT_DIRS = ("~", "/data", "/home", "/media", "/mnt", "/models", "/opt", "/scratch", "/srv", "/tmp", "/Volumes")  # noqa: S108
"""Below these another node may name a folder where no setting says more: none that is hidden, and none that holds
anything that did not come from a hub."""

_MARKS = (".cache/huggingface", ".exo-dl")


def _below(path: Path, roots: Sequence[Path]) -> Path | None:
    """The part of ``path`` below the first of ``roots`` that it lies in; None where it lies in none."""
    for root in roots:
        if path != root and path.is_relative_to(root):
            return path.relative_to(root)
    return None


@dataclass(frozen=True, slots=True)
class OfferRules:
    """The rules of this node.

    Attributes:
        endpoint: this node's own hub.
        allow_dirs: folders below which any other node may write anything; empty: `DEFAULT_DIRS`, with their limits.
        allow_endpoints: hubs that other nodes may name beside this node's own.
        home: this user's home directory.
    """

    endpoint: str
    allow_dirs: tuple[Path, ...] = ()
    allow_endpoints: tuple[str, ...] = ()
    home: Callable[[], Path] = Path.home

    def check(self, spec: PullSpec) -> None:
        """Whether this node takes part in a pull that another one offers.

        Raises:
            AccessError: it does not; the text is for the person who started the pull.
        """
        self._check_endpoint(spec.endpoint)
        try:
            check_layout(spec.layout)
        except UsageError as error:
            raise AccessError(error.what, hint=error.hint) from error
        if folder := spec.layout.partition(":")[2]:
            self._check_dir(folder)

    def _check_endpoint(self, named: str) -> None:
        # A node with a hub of its own (a mirror) reads from that one, whatever others name.
        if not named or self.endpoint != DEFAULT_ENDPOINT or named == self.endpoint:
            return
        try:
            if any(named == each or same_origin(named, each) for each in self.allow_endpoints):
                return
        except UsageError as error:
            raise AccessError(error.what) from error
        raise AccessError(
            f"It reads from {self.endpoint}, and its settings allow no other hub: not {named[:200]}.",
            hint=f"Set there: EXO_DL_ALLOW_ENDPOINTS={named[:200]}, or HF_ENDPOINT.",
        )

    def _check_dir(self, text: str) -> None:
        # Where it leads to counts, not what it is called: a link must not lead out of what is allowed.
        path = Path(os.path.realpath(text))
        hint = f"Set there: EXO_DL_ALLOW_DIRS={text[:200]}, or pull on that machine."
        if self.allow_dirs:
            if _below(path / "x", [Path(os.path.realpath(root)) for root in self.allow_dirs]) is None:
                raise AccessError(f"Its settings allow no other node to write into {text[:200]}.", hint=hint)
            return
        roots = [Path(os.path.realpath(str(self.home()) if root == "~" else root)) for root in DEFAULT_DIRS]
        rest = _below(path, roots)
        if rest is None:
            raise AccessError(f"No other node may write into {text[:200]}.", hint=hint)
        if any(part.startswith(".") for part in rest.parts):
            raise AccessError(f"No other node may write into hidden folders, as {text[:200]}.", hint=hint)
        if not _is_for_models(path):
            raise AccessError(f"{text[:200]} holds files that did not come from a hub.", hint=hint)


def _is_for_models(path: Path) -> bool:
    """True for a folder that is not there yet, is empty, or holds what exo-dl or ``hf`` put there."""
    try:
        names = os.listdir(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return not names or any((path / mark).is_dir() for mark in _MARKS)
