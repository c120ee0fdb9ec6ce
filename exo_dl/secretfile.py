"""The cluster secret on this machine's disk: ``<state_dir>/secret``, readable by its owner only."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exo_dl import locations
from exo_dl.errors import StorageError, UsageError

__all__ = [
    "FILE_VARIABLE",
    "VARIABLE",
    "Found",
    "check_variable",
    "credential_path",
    "find_secret",
    "load_or_create_secret",
    "read_secret",
    "read_secret_file",
    "secret_path",
    "write_secret",
]

VARIABLE = "EXO_DL_CLUSTER_SECRET"
"""The secret itself."""
FILE_VARIABLE = VARIABLE + "_FILE"
"""A file that holds it."""

_CREDENTIAL = "cluster-secret"
_MAX_FILE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """A secret, and where it is from; ``source`` is empty for the state directory."""

    text: str = field(repr=False)
    source: str


def find_secret(state_dir: Path, environ: Mapping[str, str] | None = None) -> Found | None:
    """The secret that a daemon without flags would use; None where there is none yet.

    Raises:
        StorageError, UsageError: as `read_secret` and `read_secret_file`.
    """
    environ = os.environ if environ is None else environ
    if direct := environ.get(VARIABLE, "").strip():
        return Found(check_variable(direct), VARIABLE)
    file = environ.get(FILE_VARIABLE, "").strip() or locations.read_toml(locations.config_path(environ)).get(
        "cluster_secret_file"
    )
    path = locations.absolute(file) if isinstance(file, str) and file else credential_path(environ)
    if path is not None:
        return Found(read_secret_file(path), f"the file {path}")
    text = read_secret(state_dir)
    return None if text is None else Found(text, "")


def credential_path(environ: Mapping[str, str] | None = None) -> Path | None:
    """The file of a systemd credential (``LoadCredential=cluster-secret:...``); None where this unit has none."""
    folder = (os.environ if environ is None else environ).get("CREDENTIALS_DIRECTORY", "")
    path = Path(folder) / _CREDENTIAL
    return path if folder and path.exists() else None


def check_variable(text: str) -> str:
    """The secret that `VARIABLE` holds.

    Raises:
        UsageError: it is none.
    """
    try:
        return _checked(text)
    except UsageError as error:
        raise UsageError(f"{VARIABLE}: {error.what}", hint=error.hint) from error


def secret_path(state_dir: Path) -> Path:
    """Where the secret of the daemon with this state directory is kept."""
    return state_dir / "secret"


def read_secret(state_dir: Path) -> str | None:
    """The stored secret; None when there is none yet.

    Raises:
        StorageError: the file cannot be read, or others than its owner may read or write it.
        UsageError: what it holds is no secret.
    """
    path = secret_path(state_dir)
    try:
        return _read(path, forbidden=0o077, remedy=f"Run: chmod 600 {path}")
    except FileNotFoundError:
        return None


def read_secret_file(path: Path) -> str:
    """The secret in a file that the user named. It may be readable by others, as mounted secrets are in containers,
    but not writable.

    Raises:
        UsageError: there is no such file, or what it holds is no secret.
        StorageError: the file cannot be read, or others may write it.
    """
    try:
        return _read(path, forbidden=0o022, remedy=f"Run: chmod go-w {path}")
    except FileNotFoundError:
        raise UsageError(f"The file of the cluster secret, {path}, does not exist.") from None


def write_secret(state_dir: Path, text: str) -> None:
    """Stores ``text`` in place of what was there, with mode 0600.

    Raises:
        UsageError: ``text`` is no secret.
        StorageError: the folder cannot be written.
    """
    with _staged(state_dir, _checked(text)) as staged:
        os.replace(staged, secret_path(state_dir))


def load_or_create_secret(state_dir: Path) -> tuple[str, bool]:
    """The stored secret, and whether it was made just now because there was none.

    Raises:
        StorageError, UsageError: as `read_secret` and `write_secret`.
    """
    present = read_secret(state_dir)
    if present is not None:
        return present, False
    from exo_dl.net.identity import new_secret

    text = new_secret()
    with _staged(state_dir, text) as staged:
        try:
            os.link(staged, secret_path(state_dir))  # unlike a rename it never replaces one that came meanwhile
        except FileExistsError:
            pass
        else:
            return text, True
    winner = read_secret(state_dir)
    if winner is None:
        raise StorageError(f"The file {secret_path(state_dir)} comes and goes.", hint="Is another program removing it?")
    return winner, False


def _checked(text: str) -> str:
    from exo_dl.net.identity import parse_secret  # slow to import (cryptography)

    text = text.strip()
    parse_secret(text)
    return text


def _read(path: Path, *, forbidden: int, remedy: str) -> str:
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise StorageError(f"{path} is no file.")
            data = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"The cluster secret in {path} cannot be read: {error.strerror}.") from error
    if info.st_mode & forbidden:
        raise StorageError(f"The cluster secret in {path} is open to other users of this machine.", hint=remedy)
    try:
        if len(data) > _MAX_FILE_BYTES:
            raise UsageError("It is too long.")
        return _checked(data.decode("ascii", "replace"))
    except UsageError as error:
        raise UsageError(
            f"The file {path} holds no cluster secret.",
            hint="Put one there with: exo-dl cluster join SECRET; a new one is made by: exo-dl cluster new-secret",
        ) from error


@contextlib.contextmanager
def _staged(state_dir: Path, text: str) -> Iterator[Path]:
    """A finished file with ``text`` beside its place, removed at the end if it is still there."""
    staged = state_dir / f".secret.{secrets.token_hex(8)}"
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, f"{text}\n".encode())
            os.fsync(fd)
        finally:
            os.close(fd)
        yield staged
    except OSError as error:
        raise StorageError(
            f"The cluster secret cannot be stored in {state_dir}: {error.strerror}.",
            hint="Choose another folder with --state-dir.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(staged)
