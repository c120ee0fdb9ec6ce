"""What users may ask of a pull: names, globs and layouts held to their bounds."""

from __future__ import annotations

from pathlib import PurePosixPath

from exo_dl.core.manifest import Manifest
from exo_dl.core.paths import check_repo
from exo_dl.errors import UsageError
from exo_dl.hubs.base import DEFAULT_REVISION, REPO_TYPES
from exo_dl.rpc.v1 import pull_pb2
from exo_dl.store.exolayout import check_for_exo

__all__ = ["check_files", "check_layout", "check_request"]

_MAX_GLOBS = 1000
_MAX_TEXT = 1000


def check_layout(layout: str) -> str:
    """Returns ``layout`` when it is "hf", "sparse", "exo", or "dir:" or "exo:" and an absolute path.

    Raises:
        UsageError: otherwise.
    """
    if layout in ("hf", "sparse", "exo"):
        return layout
    kind, _, path = layout.partition(":")
    pure = PurePosixPath(path)
    good = kind in ("dir", "exo") and pure.is_absolute() and ".." not in pure.parts and "\0" not in path
    if not good or len(path) > _MAX_TEXT:
        raise UsageError(
            f"The layout {layout[:200]!r} cannot be used.",
            hint="It is `hf`, `sparse`, `exo`, or `dir:` or `exo:` and an absolute path without '..'.",
        )
    return layout


def check_files(manifest: Manifest, layout: str) -> None:
    """Raises UsageError where these files cannot be put into the layout."""
    if layout.partition(":")[0] == "exo":
        check_for_exo(manifest)


def check_request(request: pull_pb2.StartPullRequest) -> tuple[str, str, str]:
    """Repository, revision and layout of a request, checked.

    Raises:
        UsageError: one of them cannot be used.
    """
    repo, at, revision = request.repo.partition("@")
    if at and request.revision and revision != request.revision:
        raise UsageError(f"Two revisions were given: {revision!r} and {request.revision!r}.")
    revision = revision or request.revision or DEFAULT_REVISION
    if len(revision) > 255 or any(ord(c) < 33 or c in "?#%\\~^:*[" for c in revision) or ".." in revision:
        raise UsageError(f"{revision[:200]!r} is no revision.", hint="Give a branch, a tag or a commit.")
    if (request.repo_type or "model") not in REPO_TYPES:
        raise UsageError(f"{request.repo_type[:40]!r} is no kind of repository: {', '.join(REPO_TYPES)}.")
    if len(request.include) + len(request.exclude) > _MAX_GLOBS:
        raise UsageError(f"More than {_MAX_GLOBS} globs were given.")
    if any(len(g) > _MAX_TEXT for g in (*request.include, *request.exclude)):
        raise UsageError(f"A glob is longer than {_MAX_TEXT} characters.")
    return check_repo(repo), revision, check_layout(request.layout or "hf")
