"""Figures and names as a person reads them. Units are decimal, as disks and networks count."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["clean", "human_bytes", "human_rate", "human_time", "percent", "print_json", "table"]

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(count: float) -> str:
    """``1234567`` as "1.2 MB"."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} {_UNITS[-1]}"


def human_rate(bytes_per_s: float) -> str:
    """Bytes per second; "-" when nothing was measured."""
    return f"{human_bytes(bytes_per_s)}/s" if bytes_per_s >= 0.5 else "-"


def human_time(seconds: float) -> str:
    """Seconds as "4.2 s", "3 m 05 s" or "2 h 03 m"; "?" for a negative number (no estimate)."""
    if not 0 <= seconds < 10**9:  # also for NaN and infinity
        return "?"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"


def percent(done: int, wanted: int) -> str:
    """``done`` of ``wanted``, rounded down, so that 100 % means all of it."""
    return f"{100 if done >= wanted else done * 100 // wanted} %"


def clean(text: str) -> str:
    """``text`` without characters that would steer a terminal: names and messages come from other machines."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def print_json(document: Any) -> None:
    """One document on one line of standard output, at once. Plain ASCII, so that no locale can break it."""
    print(json.dumps(document, separators=(",", ":")), flush=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows in aligned columns under their headings, without trailing spaces."""
    lines = [tuple(headings), *(tuple(clean(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
