"""huggingface_hub's HTTP session, with bounds on what an answer may be.

Its client reads an answer to the end and unpacks it, whatever comes out: a few kilobytes can become gigabytes. So each
answer is unpacked here, step by step, and given up when it is more than the longest list of files could be.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

from exo_dl.errors import HubError
from exo_dl.hubs.dialing import default_ssl_context

__all__ = ["bounded_session", "http_module", "warm_up"]

# 50,000 files (`exo_dl.core.manifest.MAX_FILES`) with all that a hub says of each are about 25 MB and 600,000 values.
_MAX_BYTES = 48 << 20
_MAX_VALUES = 3_000_000
_WHOLE_S = 120.0
_STEP_BYTES = 1 << 18
_PACKED = ("gzip", "x-gzip", "deflate")
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_lock = threading.Lock()


def bounded_session() -> Any:
    """The session that huggingface_hub's own calls use too. Answers beyond the bounds end with HubError."""
    from huggingface_hub import get_session

    session = get_session()
    with _lock:
        hooks = session.event_hooks
        if _bound not in hooks["response"]:
            session.headers["Accept-Encoding"] = "gzip, deflate"
            session.event_hooks = {**hooks, "response": [*hooks["response"], _bound]}
    return session


def warm_up() -> None:
    """Does now what the first request to a hub would wait for: 0.3 s of imports, and 0.05 s for each list of CAs.

    What does not work says nothing here: it is told where it is used.
    """
    with contextlib.suppress(ImportError, OSError, HubError):
        import huggingface_hub.hf_api  # noqa: F401

        bounded_session()
        default_ssl_context()


def http_module() -> Any:
    """The HTTP client under this huggingface_hub: httpx or httpx2."""
    from huggingface_hub import get_session

    return sys.modules[type(get_session()).__module__.partition(".")[0]]


def _bound(answer: Any) -> None:
    """Before the body of an answer is read."""
    coding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if coding not in ("identity", *_PACKED):
        raise HubError(f"The hub's answer is packed as {coding[:40]!r}, which nobody asked for.")
    answer.headers.pop("Content-Encoding", None)
    answer.stream = _stream_class()(answer.stream, packed=coding in _PACKED)


@functools.cache
def _stream_class() -> Any:
    class Bounded(http_module().SyncByteStream):  # type: ignore[misc]  # known when huggingface_hub is loaded
        def __init__(self, stream: Any, *, packed: bool) -> None:
            self._stream = stream
            self._packed = packed

        def __iter__(self) -> Iterator[bytes]:
            return _held(_unpacked(self._stream) if self._packed else self._stream)

        def close(self) -> None:
            self._stream.close()

    return Bounded


def _unpacked(packed: Iterable[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        for data in packed:
            while True:
                part = unpacker.decompress(data, _STEP_BYTES)
                yield part
                data = unpacker.unconsumed_tail
                if unpacker.eof or (not data and len(part) < _STEP_BYTES):
                    break
    except zlib.error:
        raise HubError("The hub's packed answer is damaged.") from None


def _held(parts: Iterable[bytes]) -> Iterator[bytes]:
    begin, size, values = time.monotonic(), 0, 0
    for part in parts:
        size += len(part)
        # Each value costs some 60 bytes when it is read, and takes two in the answer.
        values += part.count(b",") + part.count(b"[") + part.count(b"{")
        if size > _MAX_BYTES or values > _MAX_VALUES:
            raise HubError(
                f"The hub's answer is longer than any list of files (over {size >> 20} MiB, {values} values).",
                hint="Check HF_ENDPOINT: it must be a Hugging Face hub or a mirror of one.",
            )
        if time.monotonic() - begin > _WHOLE_S:
            raise HubError(f"The hub's answer did not end within {_WHOLE_S:g} s.")
        yield part
