"""The daemon's log: one line per event on standard error, for people or (JSON) for programs. Secrets never get there.

Modules log with ``logging.getLogger(__name__)`` as usual. Figures that a program may want go into
``extra={"fields": {"peer": ..., "bytes": ...}}``: they become ``key=value`` at the end of the line, or keys of the JSON
document.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

__all__ = ["JsonFormatter", "LineFormatter", "setup_logging"]

_HIDDEN = "[hidden]"
_MAX_LINE = 16_384
# What looks like a secret, wherever it comes from: a traceback, a URL in somebody else's exception, a header.
_PATTERNS = (
    re.compile(r"(?<![A-Za-z0-9])(hf_|api_org_)[A-Za-z0-9]{8,}"),
    re.compile(r"(?<![a-z0-9])exo-dl-[a-z2-7]{4}(-?[a-z2-7]{4}){8}", re.IGNORECASE),
    re.compile(r"(?<=Bearer )[^\s\"',]+|(?<=Basic )[A-Za-z0-9+/=]{8,}"),
    # Signed URLs and passwords in URLs.
    re.compile(
        r"(?<=[?&])((X-Amz-|X-Goog-)?(Signature|Credential|Security-Token)|Policy|Key-Pair-Id|token|sig)=[^\s&\"'>]+",
        re.IGNORECASE,
    ),
    re.compile(r"(?<=://)[^/\s@\"']+:[^/\s@\"']+(?=@)"),
)
_LEVELS = {"DEBUG": "debug", "INFO": "info ", "WARNING": "warn ", "ERROR": "ERROR", "CRITICAL": "ERROR"}
# Others' loggers speak of their own inner life below this.
_FOREIGN = (
    "grpc",
    "asyncio",
    "zeroconf",
    "urllib3",
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "filelock",
    "huggingface_hub",
)


class _Formatter(logging.Formatter):
    def __init__(self, secrets: Iterable[str] = ()) -> None:
        super().__init__()
        # Longest first, so that a secret inside another one does not leave the rest of it behind.
        self._secrets = sorted({secret for secret in secrets if len(secret) >= 8}, key=len, reverse=True)

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        for pattern in _PATTERNS:
            text = pattern.sub(_HIDDEN, text)
        return text

    def _traceback(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts)

    @staticmethod
    def _fields(record: logging.LogRecord) -> Mapping[str, Any]:
        fields = getattr(record, "fields", None)
        return fields if isinstance(fields, Mapping) else {}


class LineFormatter(_Formatter):
    """``2026-11-23 06:50:51.123 info  [pulls] text key=value``: one line, with no character that steers a terminal.

    Args:
        secrets: texts that are hidden wherever they turn up, beside everything that looks like a secret.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        level = _LEVELS.get(record.levelname, record.levelname)
        source = record.name.rsplit(".", 1)[-1]
        line = f"{moment}.{int(record.msecs):03d} {level} [{source}] {record.getMessage()}"
        line += "".join(f" {key}={_quoted(value)}" for key, value in self._fields(record).items())
        if trace := self._traceback(record):
            line += " | " + " | ".join(part.strip() for part in trace.splitlines() if part.strip())
        return _printable(self._hide(line))[:_MAX_LINE]


class JsonFormatter(_Formatter):
    """One JSON document per line: ``time`` (Unix seconds), ``level``, ``source``, ``text``, the fields, ``traceback``.

    Args:
        secrets: texts that are hidden wherever they turn up, beside everything that looks like a secret.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one JSON document."""
        document: dict[str, Any] = {
            "time": round(record.created, 3),
            "level": record.levelname.lower(),
            "source": record.name,
            "text": record.getMessage()[:_MAX_LINE],
        }
        document.update((key, value) for key, value in self._fields(record).items() if key not in document)
        if trace := self._traceback(record):
            document["traceback"] = trace[-_MAX_LINE:]
        return json.dumps(self._clean(document), default=str)

    def _clean(self, value: Any) -> Any:
        """Hides secrets inside the values, where the escapes of JSON cannot stand in the way."""
        if isinstance(value, Mapping):
            return {str(key): self._clean(item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self._clean(item) for item in value]
        return value if value is None or isinstance(value, (bool, int, float)) else self._hide(str(value))


def setup_logging(
    *, as_json: bool = False, level: str = "info", secrets: Iterable[str] = (), stream: TextIO | None = None
) -> None:
    """Sends all logging of this process to ``stream`` (standard error). A second call replaces the first.

    Args:
        as_json: JSON lines in place of readable ones.
        level: "debug", "info", "warning" or "error"; libraries are heard from "warning" on.
        secrets: texts to hide: the cluster secret, the hub token.
        stream: where to; None: standard error.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter(secrets) if as_json else LineFormatter(secrets))
    number = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in _FOREIGN:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    # warnings.warn() of a library is an event like any other, not a second format on the same stream.
    logging.captureWarnings(True)
    # A log that cannot be written (closed terminal, full disk) must not end in a traceback on that same log.
    logging.raiseExceptions = False


def _quoted(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if text and not re.search(r"[\s\"=]", text) else json.dumps(text, ensure_ascii=False)


def _printable(text: str) -> str:
    """Line ends and control characters as escapes: what a peer calls itself must not look like another log line."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
