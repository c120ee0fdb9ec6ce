"""The daemon's settings: a TOML file, then ``EXO_DL_*`` variables, then flags; the later one wins.

`SETTINGS` is the only list of them. Every setting can be given in all three places; only the cluster secret itself
never comes as a flag or from the settings file, where others could read it: those name a file that holds it.
"""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from exo_dl import __version__, locations, secretfile
from exo_dl.errors import StorageError, UsageError
from exo_dld import settings
from exo_dld.memory import budget_bytes
from exo_dld.settings import SETTINGS, Setting

__all__ = ["DEFAULT_PORT", "Config", "load"]

DEFAULT_PORT = 52520

# For the commands; a shell that has them may start a daemon too.
_OF_COMMANDS = ("EXO_DL_CONNECT", "EXO_DL_TICKET")
_MAX_TOKEN_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one daemon, checked. Secrets are left out of its ``repr``."""

    state_dir: Path
    """Database, node id, secret and socket. The daemon makes it."""
    name: str
    """What people call this node; at most 63 bytes, no comma."""
    host: str = ""
    """The address that the gRPC and piece ports listen on; empty: all, IPv4 and IPv6."""
    port: int = DEFAULT_PORT
    """gRPC port for other nodes; 0: any free one."""
    port_chosen: bool = False
    """Somebody asked for this port. If not, and it is taken, any free one will do."""
    piece_port: int = 0
    """HTTP port for pieces; 0: any free one."""
    peers: tuple[str, ...] = ()
    """Static peers as ``host:port`` (IPv6 in brackets)."""
    cluster_secret: str | None = field(default=None, repr=False)
    """The secret as text; None: the one in the state directory, made at the first start."""
    secret_source: str = ""
    """Which setting `cluster_secret` comes from; empty for the state directory."""
    mdns: bool = True
    """Look for nodes, and be found, by multicast DNS."""
    hf_endpoint: str = settings.DEFAULT_ENDPOINT
    """The hub's base URL without a slash at the end."""
    hf_home: Path
    """The Hugging Face home directory."""
    hf_cache: Path
    """The Hugging Face cache (what ``HF_HUB_CACHE`` names)."""
    hf_token: str | None = field(default=None, repr=False)
    """The hub token of the environment. Use `current_hf_token`."""
    hf_token_file: Path
    """Where ``hf auth login`` leaves the token."""
    allow_dirs: tuple[str, ...] = ()
    """Folders below which pulls that other nodes start may write; empty: see `exo_dld.targets.DEFAULT_DIRS`."""
    allow_endpoints: tuple[str, ...] = ()
    """Hubs that other nodes may name beside ``hf_endpoint``."""
    memory_budget_bytes: int = field(default_factory=budget_bytes)
    """Most memory that buffers of transfers may take together; else by what is available now."""
    helper_cache_bytes: int = 4 << 30
    """Most bytes of pieces that this node holds for others while a pull runs; what is on its way comes on top."""
    max_hub_connections: int = 8
    """Most connections to the hub at once, per pull."""
    max_uploads: int = 10
    """Most pieces that are sent to peers at once."""
    hub_limit_bytes_per_s: int = 0
    """Most bytes per second from the hub; 0: no limit. What `exo-dl limit` said since is not in it."""
    lan_limit_bytes_per_s: int = 0
    """Most bytes per second to other nodes, and as many from them; 0: no limit."""
    share_gated: bool = False
    """Pulls that start here give gated models to nodes too that may not read them at the hub themselves."""
    socket_group: int | None = None
    """A group that may use the socket beside the owner."""
    log_json: bool = False
    """One JSON document per log line."""
    log_level: str = "info"
    """"debug", "info", "warning" or "error"."""

    def current_hf_token(self) -> str | None:
        """The hub token now: from the environment of the start, else read anew, so that a login needs no restart.

        Raises:
            StorageError: the token file cannot be read.
        """
        if self.hf_token is not None:
            return self.hf_token
        try:
            with open(self.hf_token_file, "rb") as file:
                data = file.read(_MAX_TOKEN_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(
                f"The hub token in {self.hf_token_file} cannot be read: {error.strerror}.",
                hint="Correct its permissions, or remove it.",
            ) from error
        return data.decode("utf-8", "replace").strip() or None


def load(arguments: Sequence[str] | None = None, *, environ: Mapping[str, str] | None = None) -> Config:
    """Reads all settings. Touches nothing on the disk.

    ``--help`` and ``--version`` print and raise SystemExit(0).

    Args:
        arguments: the flags; None: those of this process.
        environ: the environment; None: that of this process.

    Raises:
        UsageError: an unknown setting, or a value that cannot be used, with its name and where it came from.
    """
    environ = os.environ if environ is None else environ
    flags = vars(_parser().parse_args(arguments))
    chosen = flags.pop("config", None)
    path = locations.config_path(environ) if chosen is None else locations.absolute(chosen)
    if (chosen is not None or environ.get(locations.CONFIG_VARIABLE)) and not path.exists():
        raise UsageError(f"The settings file {path} does not exist.")
    values: dict[str, Any] = {}
    sources: dict[str, int] = {}
    given = (_from_file(path), _from_environment(environ), _from_flags(flags))
    for rank, source in enumerate(given):
        values.update(source)
        sources.update(dict.fromkeys(source, rank))
    return _build(values, sources, environ)


def _build(values: dict[str, Any], sources: Mapping[str, int], environ: Mapping[str, str]) -> Config:
    found = _secret(values.pop("cluster_secret_file", None), sources, environ)
    values["cluster_secret"], values["secret_source"] = found if found is not None else (None, "")
    values["port_chosen"] = "port" in values
    if "state_dir" not in values:
        values["state_dir"] = locations.platform_state_dir()
    if "name" not in values:
        values["name"] = settings.default_name(socket.gethostname())
    return Config(**{**values, **_hugging_face(values, environ)})


def _secret(file: Path | None, sources: Mapping[str, int], environ: Mapping[str, str]) -> tuple[str, str] | None:
    """A flag beats the environment, and that the settings file; a file and a secret in one place contradict. What no
    setting says may be a systemd credential. The secret and where it is from.
    """
    direct = environ.get(secretfile.VARIABLE, "").strip()
    rank = sources.get("cluster_secret_file", -1)
    if direct and rank == 1:
        raise UsageError(
            f"{secretfile.VARIABLE} and {secretfile.FILE_VARIABLE} are both set.", hint="Unset one of them."
        )
    if file is not None and (not direct or rank > 1):
        return secretfile.read_secret_file(file), f"the file {file}"
    if direct:
        return secretfile.check_variable(direct), secretfile.VARIABLE
    credential = secretfile.credential_path(environ)
    if credential is None:
        return None
    return secretfile.read_secret_file(credential), f"the credential {credential}"


def _hugging_face(values: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Directories, endpoint and token where no setting gives them: by the variables that huggingface_hub has."""

    def variable(name: str) -> str:
        return environ.get(name, "").strip()

    def place(setting: str, name: str, default: Path) -> Path:
        if setting in values:
            chosen: Path = values[setting]
            return chosen
        text = variable(name)
        return locations.absolute(os.path.expandvars(text)) if text else default

    base = variable("XDG_CACHE_HOME") or "~/.cache"
    # A home chosen for this daemon alone beats the cache variable, which other programs share.
    own_home = "hf_home" in values
    home = place("hf_home", "HF_HOME", locations.absolute(base) / "huggingface")
    found: dict[str, Any] = {"hf_home": home}
    found["hf_cache"] = place("hf_cache", "" if own_home else "HF_HUB_CACHE", home / "hub")
    found["hf_token_file"] = place("hf_token_file", "HF_TOKEN_PATH", home / "token")
    if "hf_token_file" not in values:
        found["hf_token"] = variable("HF_TOKEN") or None
    endpoint = values.get("hf_endpoint")
    if endpoint is None and variable("HF_ENDPOINT"):
        endpoint = _parsed("HF_ENDPOINT", settings.endpoint, variable("HF_ENDPOINT"))
    found["hf_endpoint"] = endpoint or settings.DEFAULT_ENDPOINT
    return found


def _from_file(path: Path) -> dict[str, Any]:
    known = {setting.name: setting for setting in SETTINGS}
    found = {}
    for name, raw in locations.read_toml(path).items():
        if name not in known:
            raise UsageError(f"{path}: there is no setting {name!r}.", hint=_suggest(name, list(known)))
        found[known[name].field] = _parsed(f"{path}: {name}", known[name].parse, raw)
    return found


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known: dict[str, Setting | None] = {setting.variable: setting for setting in SETTINGS}
    known |= dict.fromkeys((locations.CONFIG_VARIABLE, secretfile.VARIABLE, *_OF_COMMANDS))
    found = {}
    for name in sorted(environ):
        if not name.startswith("EXO_DL_"):
            continue
        if name not in known:
            raise UsageError(f"There is no setting for the variable {name}.", hint=_suggest(name, list(known)))
        setting = known[name]
        # An empty variable is one that is not set: compose files and units pass them on like that.
        if setting is not None and environ[name].strip():
            found[setting.field] = _parsed(name, setting.parse, environ[name])
    return found


def _from_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    known = {setting.name: setting for setting in SETTINGS}
    return {known[name].field: _parsed(known[name].flag, known[name].parse, raw) for name, raw in flags.items()}


def _parsed(where: str, parse: settings.Parser, raw: object) -> Any:
    try:
        return parse(raw)
    except UsageError as error:
        raise UsageError(f"{where}: {error.what}", hint=error.hint) from error
    except ValueError as error:
        raise UsageError(f"{where} = {raw!r} cannot be used: {error}.") from error


def _suggest(name: str, known: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"There are: {', '.join(sorted(known))}."


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized arguments: "):
            # What somebody took for a flag may carry a token: only the flags' names are repeated.
            flags = [word.partition("=")[0] for word in message.split()[2:] if word.startswith("-")]
            message = f"there is no flag {', '.join(flags)}" if flags else message
        raise UsageError(f"exo-dld: {message}.", hint="See: exo-dld --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="exo-dld",
        description="The exo-dl daemon of this machine: finds the others of its cluster, and pulls models with them.",
        epilog="Each setting is also a key of the TOML file (the name of its variable in lower case, without EXO_DL_). "
        "A flag beats the variable, and the variable beats the file. The cluster secret itself comes from "
        "EXO_DL_CLUSTER_SECRET or from a file. HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME and HF_HUB_CACHE count.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"exo-dld {__version__}")
    parser.add_argument("--config", metavar="FILE", help="Settings file. [env: EXO_DL_CONFIG]")
    for setting in SETTINGS:
        options: dict[str, Any] = {"dest": setting.name, "help": f"{setting.help} [env: {setting.variable}]"}
        if setting.kind is settings.Kind.SWITCH:
            parser.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **options)
        else:
            options["action"] = "append" if setting.kind is settings.Kind.LIST else "store"
            parser.add_argument(setting.flag, metavar=setting.metavar, **options)
    return parser
