"""What a hub's HTTP answer means: its ranges, digests, waiting times and errors. Nothing here touches a socket."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol
from urllib.parse import urlsplit

from exo_dl.errors import AccessError, ExoDlError, HubBusyError, HubError, IntegrityError, NotFoundError

__all__ = [
    "MAX_RETRY_AFTER_S",
    "ContentRange",
    "Headers",
    "error_for_answer",
    "linked_digest",
    "own_digest",
    "parse_content_range",
    "parse_length",
    "retry_after_s",
    "shown_url",
]

MAX_RETRY_AFTER_S = 3600.0
"""No hub makes a pull wait longer than this at a time, whatever it says."""

_DEFAULT_RETRY_S = {429: 30.0, 503: 5.0}
_CONTENT_RANGE = re.compile(r"bytes\s+(\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)
_RATE_LIMIT = re.compile(r";\s*r\s*=\s*(\d{1,12})\s*;\s*t\s*=\s*(\d{1,9})")
_DIGEST = re.compile(r"(?:W/)?\"?([0-9a-fA-F]{40}|[0-9a-fA-F]{64})\"?")


class Headers(Protocol):
    """Headers of an answer: names in any case."""

    def get(self, name: str, /) -> str | None:
        """The value of a header, None where it is absent."""


@dataclass(frozen=True, slots=True)
class ContentRange:
    """The bytes ``first <= i < end`` of a file of ``total`` bytes (None: not said)."""

    first: int
    end: int
    total: int | None


def parse_content_range(value: str | None) -> ContentRange | None:
    """A ``Content-Range`` header; None where it is absent or makes no sense."""
    match = _CONTENT_RANGE.fullmatch((value or "").strip())
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and last >= total):
        return None
    return ContentRange(first, last + 1, total)


def parse_length(value: str | None) -> int | None:
    """A ``Content-Length`` header in bytes; None where it is absent.

    Raises:
        HubError: it is no number.
    """
    if value is None:
        return None
    text = value.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise HubError(f"The hub's Content-Length {text[:40]!r} is no number.")
    return int(text)


def _digest(value: str | None) -> str:
    match = _DIGEST.fullmatch((value or "").strip())
    return match[1].lower() if match else ""


def linked_digest(headers: Headers) -> str:
    """The content's digest in hex from ``X-Linked-ETag``, which only hubs send; "" where there is none."""
    return _digest(headers.get("X-Linked-ETag"))


def own_digest(headers: Headers) -> str:
    """The content's digest in hex from ``X-Linked-ETag`` or an ``ETag`` that looks like one; "" where there is none.

    Only for answers of the hub itself: the ``ETag`` of a storage server behind it says nothing about the content.
    """
    return linked_digest(headers) or _digest(headers.get("ETag"))


def retry_after_s(headers: Headers, default_s: float) -> float:
    """Seconds to wait, from ``RateLimit`` or ``Retry-After`` (seconds or a date); within 0..`MAX_RETRY_AFTER_S`."""
    waits = [int(t) for r, t in _RATE_LIMIT.findall(headers.get("RateLimit") or "") if int(r) == 0]
    if waits:
        return min(float(max(waits)), MAX_RETRY_AFTER_S)
    value = (headers.get("Retry-After") or "").strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:12]), MAX_RETRY_AFTER_S)
    try:
        until = parsedate_to_datetime(value).timestamp()
    except (ValueError, OverflowError):
        return default_s
    try:
        # The hub's own clock, where it tells it: this machine's may be wrong.
        now = parsedate_to_datetime(headers.get("Date") or "").timestamp()
    except (ValueError, OverflowError):
        now = time.time()
    return min(max(until - now, 0.0), MAX_RETRY_AFTER_S)


def shown_url(url: str) -> str:
    """``url`` for a message: without its query and user, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:300]


def _said(headers: Headers) -> str:
    message = "".join(c for c in (headers.get("X-Error-Message") or "") if c.isprintable())[:300].strip()
    return f" It says: {message}" if message else ""


def error_for_answer(status: int, headers: Headers, what: str, *, with_token: bool, page: str = "") -> ExoDlError:
    """The error that an answer other than 2xx and 3xx stands for.

    Args:
        status: the HTTP status.
        headers: of the answer.
        what: what was asked for, as in "org/name at 'main'".
        with_token: a token was sent along; the hint differs.
        page: the model's page in a browser, for the hint.
    """
    code = (headers.get("X-Error-Code") or "")[:40]
    said = _said(headers)
    if status == 429 or (status == 503 and code != "RepoNotFound"):
        wait = retry_after_s(headers, _DEFAULT_RETRY_S[status])
        why = "has had too many requests from this address" if status == 429 else "is busy"
        return HubBusyError(
            f"The hub {why} ({status} for {what}) and asks to wait {wait:.0f} s.{said}",
            retry_after_s=wait,
            hint="" if with_token else "A token (HF_TOKEN) has a larger quota.",
        )
    if code == "RevisionNotFound":
        return NotFoundError(f"There is no such revision: {what}.{said}", hint="See the branches and tags on its page.")
    if code == "EntryNotFound":
        return NotFoundError(f"There is no such file: {what}.{said}")
    if code == "GatedRepo":
        at = f" at {page}" if page else ""
        hint = f"Accept its conditions{at}" + ("." if with_token else ", then set HF_TOKEN or run: hf auth login")
        return AccessError(f"{what} is gated, and the hub refused access.{said}", hint=hint)
    if status == 401 and with_token and code != "RepoNotFound":
        return AccessError(f"The hub does not accept the token (401 for {what}).{said}", hint="Run: hf auth login")
    if code == "RepoNotFound" or status in (401, 404, 410):
        hint = "Check the name. A private one needs a token (HF_TOKEN, or run: hf auth login) that may read it."
        return NotFoundError(f"The hub has no {what}, or hides it ({status}).{said}", hint=hint)
    if status == 403:
        hint = "Check the token's permissions." if with_token else "Set HF_TOKEN, or run: hf auth login"
        return AccessError(f"The hub refused {what} (403).{said}", hint=hint)
    if status == 416:
        return IntegrityError(f"The hub's {what} is shorter than its list of files says.")
    return HubError(f"The hub answered {status} for {what}.{said}")
