"""Which names from outside may become paths on this machine's disks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator

from exo_dl.errors import UsageError

__all__ = ["check_commit", "check_path", "check_repo", "colliding"]

_MAX_PATH_BYTES = 1024
_MAX_PART_BYTES = 255
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in "123456789")}
# Characters that some file system or font takes for a separator: they have no place in the name of a weight file.
_LOOKALIKES = set("\\:\u2044\u2215\u29f5\u29f8\uff0f\uff3c\ufe68")


def check_path(path: str) -> str:
    """Returns ``path`` when it is a relative path that stays inside its folder on every file system.

    Refused: empty or over-long parts, ``.``, ``..``, absolute paths, back-slashes and colons (drive letters, streams),
    control characters, look-alikes of separators, device names of Windows, trailing dots and spaces.

    Raises:
        UsageError: with the reason.
    """

    def refuse(why: str) -> UsageError:
        return UsageError(f"The file name {path[:200]!r} is refused: {why}.")

    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise refuse("it is no valid Unicode") from None
    if not path or size > _MAX_PATH_BYTES:
        raise refuse(f"it is empty or longer than {_MAX_PATH_BYTES} bytes")
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise refuse("it has an empty part, '.' or '..', or is absolute")
        if len(part.encode()) > _MAX_PART_BYTES:
            raise refuse(f"a part of it is longer than {_MAX_PART_BYTES} bytes")
        if part != part.rstrip(". ") or part != part.lstrip(" "):
            raise refuse("a part of it ends with a dot or a space, or begins with a space")
        if part.split(".")[0].strip().lower() in _DEVICES:
            raise refuse("it is the name of a device")
        for char in part:
            if char in _LOOKALIKES or unicodedata.category(char) in ("Cc", "Cs"):
                raise refuse(f"it has the character {char!r}")
    return path


def colliding(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Pairs of paths that are one on a disk which folds case or normalises Unicode, folders and files alike."""
    seen: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        for end in range(1, len(parts) + 1):
            part = "/".join(parts[:end])
            folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", part).casefold())
            other = seen.setdefault(folded, part)
            if other != part:
                yield other, part


def check_repo(repo: str) -> str:
    """Returns ``repo`` when it is a repository id ("org/name" or "name") as hubs allow it.

    Raises:
        UsageError: with the reason.
    """
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith((".git", ".", "-")):
        raise UsageError(
            f"{repo[:200]!r} is no repository id.",
            hint="It has the form org/name: letters, digits, '-', '_', '.'; no '..' and no '--'.",
        )
    return repo


def check_commit(commit: str) -> str:
    """Returns ``commit`` when it is 40 lower-case hex digits.

    Raises:
        UsageError: otherwise.
    """
    if not _COMMIT.fullmatch(commit):
        raise UsageError(f"{commit[:80]!r} is no commit (40 hex digits).")
    return commit
