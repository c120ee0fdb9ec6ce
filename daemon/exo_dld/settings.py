"""The list of the daemon's settings, and how the text or TOML value of each becomes what `Config` holds."""

from __future__ import annotations

import enum
import grp
import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from exo_dl import locations
from exo_dl.core.units import parse_rate
from exo_dl.errors import UsageError

__all__ = ["DEFAULT_ENDPOINT", "SETTINGS", "Kind", "Parser", "Setting", "default_name", "endpoint"]

Parser = Callable[[object], Any]
"""Makes a setting of a text or TOML value; ValueError or UsageError says what it must be."""

DEFAULT_ENDPOINT = "https://huggingface.co"

_DEFAULT_PEER_PORT = 52520
_MAX_NAME_BYTES = 63  # of a DNS label, which mDNS makes of it
_MAX_LIST = 1024
_MIN_MEMORY_BUDGET_BYTES = 32 << 20
_MAX_MEMORY_BUDGET_BYTES = 1 << 40
_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


class Kind(enum.Enum):
    """How a setting looks as a flag."""

    VALUE = "value"
    LIST = "list"
    SWITCH = "switch"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: ``name`` is its TOML key; flag and variable follow from it."""

    name: str
    parse: Parser
    help: str
    metavar: str = "TEXT"
    kind: Kind = Kind.VALUE
    field_name: str = ""

    @property
    def field(self) -> str:
        """The field of `Config` that it sets."""
        return self.field_name or self.name

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "EXO_DL_" + self.name.upper()

    @property
    def flag(self) -> str:
        """The flag that sets it; that of a list gives one entry each time (``--peer`` for ``peers``)."""
        name = self.name.removesuffix("s") if self.kind is Kind.LIST else self.name
        return "--" + name.replace("_", "-")


def default_name(host: str) -> str:
    """A node name made of this machine's host name."""
    try:
        return _name(host.split(".")[0])
    except ValueError:
        return "node"


def endpoint(raw: object) -> str:
    """The base URL of a hub, without a slash at the end."""
    text = _text(raw).rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it must be a URL like https://huggingface.co")
    if parts.username is not None or parts.query or parts.fragment:
        # What is wrong here may be a password: this message does not repeat the value.
        raise UsageError("It must have no user, query or fragment.", hint="A token goes into HF_TOKEN.")
    _ = parts.port  # ValueError when it is no port
    return text


def _text(raw: object) -> str:
    if not isinstance(raw, str) or not raw.strip() or not raw.isprintable():
        raise ValueError("it must be a text without control characters")
    return raw.strip()


def _name(raw: object) -> str:
    text = _text(raw)
    if len(text.encode()) > _MAX_NAME_BYTES or "," in text or text == "all":
        raise ValueError(f"it must have at most {_MAX_NAME_BYTES} bytes and no comma, and not be 'all'")
    return text


def _path(raw: object) -> Path:
    if not isinstance(raw, str):
        raise ValueError("it must be a path")
    return locations.absolute(raw)


def _integer(low: int, high: int) -> Parser:
    def parse(raw: object) -> int:
        if isinstance(raw, str) and re.fullmatch(r"\s*\d{1,12}\s*", raw):
            raw = int(raw)
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise ValueError(f"it must be a whole number from {low} to {high}")
        return raw

    return parse


def _size(raw: object) -> int:
    if isinstance(raw, str) and (match := _SIZE.fullmatch(raw.strip())):
        exponent = " kmgt".index(match[2].lower() or " ")
        raw = int(match[1]) * (1024 if match[3] else 1000) ** exponent
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise ValueError("it must be a size like 512MiB, 2GB or a number of bytes")
    if not _MIN_MEMORY_BUDGET_BYTES <= raw <= _MAX_MEMORY_BUDGET_BYTES:
        raise ValueError("it must be from 32MiB to 1TiB")
    return raw


def _rate(raw: object) -> int:
    if isinstance(raw, str):
        return parse_rate(raw)
    if raw == 0 and not isinstance(raw, bool):
        return 0
    raise ValueError("it must be a rate like 100Mbit, 12MB/s or none")


def _switch(raw: object) -> bool:
    if isinstance(raw, str):
        raw = True if raw.strip().lower() in _TRUE else False if raw.strip().lower() in _FALSE else raw
    if not isinstance(raw, bool):
        raise ValueError("it must be true or false")
    return raw


def _group(raw: object) -> int:
    """A group's number."""
    text = str(raw) if isinstance(raw, int) and not isinstance(raw, bool) else _text(raw)
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return grp.getgrnam(text).gr_gid
    except KeyError:
        raise ValueError("there is no such group on this machine") from None


def _level(raw: object) -> str:
    levels = ("debug", "info", "warning", "error")
    if not isinstance(raw, str) or raw.strip().lower() not in levels:
        raise ValueError(f"it must be one of {', '.join(levels)}")
    return raw.strip().lower()


def _list(item: Callable[[str], str]) -> Parser:
    """A TOML list, or text with commas between the items; flags give a list of such texts. Repeated ones count once."""

    def parse(raw: object) -> tuple[str, ...]:
        texts = [raw] if isinstance(raw, str) else raw
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError("it must be a list of texts")
        items = [part.strip() for text in texts for part in text.split(",")]
        if len(items) > _MAX_LIST:
            raise ValueError(f"it must have at most {_MAX_LIST} entries")
        return tuple(dict.fromkeys(item(part) for part in items if part))

    return parse


def _dir(text: str) -> str:
    return str(locations.absolute(text))


def _host(text: str) -> str:
    """An IP address (scope allowed, no brackets) or a host name."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.removesuffix(".").split(".")
        numeric = labels[-1].isdigit()  # "300.1.1.1" is a mistyped address, not a name
        if numeric or len(text) > 253 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
            raise ValueError(f"{text!r} is no address and no host name") from None
    return text


def _listen(raw: object) -> str:
    if raw in ("", "*"):
        return ""
    text = _text(raw)
    return _host(text[1:-1] if text.startswith("[") and text.endswith("]") else text)


def _peer(text: str) -> str:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not of the form [address]:port")
        port = rest[1:] if rest else str(_DEFAULT_PEER_PORT)
    elif text.count(":") > 1:  # an IPv6 address alone
        host, port = text, str(_DEFAULT_PEER_PORT)
    else:
        host, colon, port = text.partition(":")
        port = port if colon else str(_DEFAULT_PEER_PORT)
    if not re.fullmatch(r"\d{1,5}", port) or not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r} has no port from 1 to 65535; it must be host:port")
    host = _host(host)
    return f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}"


SETTINGS: tuple[Setting, ...] = (
    Setting("state_dir", _path, "Database, node id, secret and socket.", "DIR"),
    Setting("name", _name, "What people call this node. [default: the host name]", "NAME"),
    Setting("host", _listen, "Address to listen on for other nodes. [default: all, IPv4 and IPv6]", "ADDRESS"),
    Setting("port", _integer(0, 65535), "gRPC port for other nodes; 0: any. [default: 52520, or any if taken]", "PORT"),
    Setting("piece_port", _integer(0, 65535), "HTTP port for pieces; 0: any. [default: 0]", "PORT"),
    Setting("peers", _list(_peer), "A node where multicast does not pass. Repeatable.", "HOST:PORT", Kind.LIST),
    Setting("cluster_secret_file", _path, "A file that holds the cluster secret. [default: in the state dir]", "FILE"),
    Setting("mdns", _switch, "Find other nodes by multicast DNS. [default: yes]", kind=Kind.SWITCH),
    Setting("hf_endpoint", endpoint, "The hub. [default: HF_ENDPOINT or https://huggingface.co]", "URL"),
    Setting("hf_home", _path, "Hugging Face home. [default: HF_HOME or ~/.cache/huggingface]", "DIR"),
    Setting("hf_cache", _path, "Hugging Face cache. [default: HF_HUB_CACHE or hub/ in the home]", "DIR"),
    Setting("hf_token_file", _path, "The hub token; beats HF_TOKEN. [default: token in the home]", "FILE"),
    Setting(
        "helper_cache",
        _size,
        "Most bytes of pieces held for other nodes while a pull runs. [default: 4GiB]",
        "SIZE",
        field_name="helper_cache_bytes",
    ),
    Setting(
        "memory_budget",
        _size,
        "Most memory for the buffers of transfers. [default: 1/16 of what is available at the start, 64MiB to 256MiB]",
        "SIZE",
        field_name="memory_budget_bytes",
    ),
    Setting(
        "allow_dirs",
        _list(_dir),
        "A folder below which pulls that other nodes start may write. Repeatable. [default: new ones in usual places]",
        "DIR",
        Kind.LIST,
    ),
    Setting(
        "allow_endpoints",
        _list(endpoint),
        "A hub that other nodes may name beside this node's own. Repeatable. [default: none]",
        "URL",
        Kind.LIST,
    ),
    Setting("max_hub_connections", _integer(1, 64), "Most connections to the hub at once. [default: 8]", "N"),
    Setting("max_uploads", _integer(1, 1024), "Most pieces sent to peers at once. [default: 10]", "N"),
    Setting(
        "hub_limit",
        _rate,
        "Most bytes from the hub, until `exo-dl limit` changes it. [default: none]",
        "RATE",
        field_name="hub_limit_bytes_per_s",
    ),
    Setting(
        "lan_limit",
        _rate,
        "The same to, and from, other nodes. [default: none]",
        "RATE",
        field_name="lan_limit_bytes_per_s",
    ),
    Setting("share_gated", _switch, "Gated models go to nodes without access too. [default: no]", kind=Kind.SWITCH),
    Setting("socket_group", _group, "This group may use the socket as well as its owner. [default: none]", "GROUP"),
    Setting("log_json", _switch, "Log JSON lines. [default: no]", kind=Kind.SWITCH),
    Setting("log_level", _level, "debug, info, warning or error. [default: info]", "LEVEL"),
)
