"""Where things are on this machine: settings file, state directory, the daemon's socket.

The daemon and its clients find each other by these functions alone, so they must give the same answer in every process
of one user, whatever else is in its environment.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from exo_dl.errors import StorageError, UsageError

__all__ = [
    "CONFIG_VARIABLE",
    "STATE_DIR_VARIABLE",
    "absolute",
    "config_path",
    "default_state_dir",
    "platform_state_dir",
    "prepare_socket_dir",
    "read_toml",
    "socket_is_trusted",
    "socket_path",
    "socket_target",
]

STATE_DIR_VARIABLE = "EXO_DL_STATE_DIR"
CONFIG_VARIABLE = "EXO_DL_CONFIG"

# sun_path holds 104 bytes on macOS and 108 on Linux; some room is left for a temporary name beside it.
_MAX_SOCKET_PATH_BYTES = 100
_MAX_CONFIG_BYTES = 1 << 20


def absolute(path: str | os.PathLike[str]) -> Path:
    """``path`` with ``~`` expanded and made absolute; symbolic links stay as they are.

    Raises:
        UsageError: it is empty, holds a NUL, or names an unknown user's home.
    """
    text = os.fspath(path)
    if not text or "\0" in text:
        raise UsageError(f"{text!r} is no path.")
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise UsageError(f"The home directory in {text!r} is not known.", hint="Give an absolute path.")
    return Path(os.path.abspath(expanded))


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """The settings file: ``EXO_DL_CONFIG``, or ``config.toml`` in the user's configuration directory."""
    chosen = (os.environ if environ is None else environ).get(CONFIG_VARIABLE)
    if chosen:
        return absolute(chosen)
    from platformdirs import user_config_dir  # costs 10 ms, and is often not needed

    return Path(user_config_dir("exo-dl", appauthor=False)) / "config.toml"


def read_toml(path: Path) -> dict[str, object]:
    """The settings in ``path``; empty when there is no such file.

    Raises:
        UsageError: the file cannot be read or is no TOML.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    if len(data) > _MAX_CONFIG_BYTES:
        raise UsageError(f"The settings file {path} is larger than {_MAX_CONFIG_BYTES} bytes.")
    import tomllib

    try:
        return tomllib.loads(data.decode())
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise UsageError(f"The settings file {path} is no valid TOML: {error}.") from error


def default_state_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The state directory when no flag names one: ``EXO_DL_STATE_DIR``, ``state_dir`` of the settings file, or the
    user's state directory of this platform.

    Raises:
        UsageError: the settings file or the value in it cannot be used.
    """
    chosen = (os.environ if environ is None else environ).get(STATE_DIR_VARIABLE)
    if chosen:
        return absolute(chosen)
    path = config_path(environ)
    setting = read_toml(path).get("state_dir")
    if setting is not None:
        if not isinstance(setting, str) or not setting:
            raise UsageError(f"state_dir = {setting!r} in {path} cannot be used: it must be a path.")
        return absolute(setting)
    return platform_state_dir()


def platform_state_dir() -> Path:
    """The state directory when no setting names one."""
    from platformdirs import user_state_dir

    return Path(user_state_dir("exo-dl", appauthor=False))


def socket_path(state_dir: Path) -> Path:
    """The daemon's Unix socket for a state directory.

    It lies in the state directory. Where that path is too long for a socket it is a name made of a hash, in
    ``/tmp/exo-dl-UID``: not in ``XDG_RUNTIME_DIR``, which a system service, a cron job or ``sudo`` has not or has
    differently, so that daemon and client would miss each other.
    """
    path = absolute(state_dir) / "daemon.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES:
        return path
    import hashlib

    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:24]
    return _short_dir() / f"{digest}.sock"


def socket_target(path: Path) -> str:
    """``path`` as gRPC wants it, for a server's port or a channel's target. gRPC reads it as a URI."""
    from urllib.parse import quote

    return "unix:" + quote(os.fsencode(path))


def prepare_socket_dir(path: Path) -> None:
    """Makes the directory of the socket ``path``, open to this user only.

    Raises:
        StorageError: it cannot be made, or belongs to another user.
    """
    folder = path.parent
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"The folder {folder} cannot be made: {error.strerror}.", hint="Choose another one with --state-dir."
        ) from error
    if not socket_is_trusted(path):
        raise StorageError(
            f"The folder {folder} is open to other users of this machine.",
            hint="Remove it, or choose a state directory with a shorter path with --state-dir.",
        )


def socket_is_trusted(path: Path) -> bool:
    """False when ``path`` is in the shared short place and another user could have put a socket there."""
    if path.parent != _short_dir():
        return True
    try:
        info = os.lstat(path.parent)
    except FileNotFoundError:
        return True
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.getuid() and not info.st_mode & 0o077


def _short_dir() -> Path:
    return Path(f"/tmp/exo-dl-{os.getuid()}")  # noqa: S108 - owner and mode are checked before it is used
