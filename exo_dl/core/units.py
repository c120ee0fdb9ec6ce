"""Rates and sizes as people write them: ``100Mbit``, ``12MB/s``, ``none``; ``96GiB``."""

from __future__ import annotations

import re

from exo_dl.errors import UsageError

__all__ = ["MAX_RATE_BYTES_PER_S", "MIN_RATE_BYTES_PER_S", "check_rate", "parse_rate", "parse_size"]

MIN_RATE_BYTES_PER_S = 50_000
MAX_RATE_BYTES_PER_S = 10**12

_RATE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)\s*([kmgt]?)(i?)(b|bits?|bytes?)(?:/s|ps)?", re.IGNORECASE)
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_NONE = {"none", "off", "unlimited", "0"}
_HINT = "Write it as 100Mbit, 12MB/s, 1.5MiB/s or none."


def parse_rate(text: str) -> int:
    """A rate in bytes per second; 0 for ``none``.

    ``bit`` and ``b`` are bits, ``B`` and ``byte`` are bytes; k, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024.
    ``/s`` and ``ps`` may be left out.

    Raises:
        UsageError: it is no rate, or one below 50 kB/s (a typing error, most likely) or above 1 TB/s.
    """
    text = text.strip()
    if text.lower() in _NONE:
        return 0
    found = _RATE.fullmatch(text)
    if found is None:
        raise UsageError(f"{text[:80]!r} is no rate.", hint=_HINT)
    number, prefix, binary, unit = found.groups()
    if binary and not prefix:
        raise UsageError(f"{text[:80]!r} is no rate.", hint=_HINT)
    scale = (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " ")
    bits = unit == "b" or unit.lower().startswith("bit")
    rate = round(float(number) * scale / (8 if bits else 1))
    if not rate:
        return 0
    return check_rate(rate)


def check_rate(bytes_per_s: int) -> int:
    """Returns a rate that a limit may have: 0 for none, or 50 kB/s to 1 TB/s.

    Raises:
        UsageError: another one.
    """
    if bytes_per_s and not MIN_RATE_BYTES_PER_S <= bytes_per_s <= MAX_RATE_BYTES_PER_S:
        raise UsageError(
            f"A limit of {bytes_per_s} bytes per second cannot be set.",
            hint="It is none, or from 50kB/s (0.4Mbit) to 1TB/s.",
        )
    return bytes_per_s


def parse_size(text: str) -> int:
    """A number of bytes: ``96GiB``, ``1.5TB``, ``1000``.

    Raises:
        UsageError: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or (found[3] and not found[2]):
        raise UsageError(f"{text[:80]!r} is no size.", hint="Write it as 96GiB or 64GB.")
    scale: int = (1024 if found[3] else 1000) ** " kmgt".index(found[2].lower() or " ")
    return round(float(found[1]) * scale)
