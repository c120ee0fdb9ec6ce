"""What all connections of the local hub share: repositories, faults, signatures, the rate, the access log."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections import deque
from pathlib import Path
from typing import IO, Any

from bench.faults import Fault, Faults
from bench.repos import DigestCache, Repo, load_repo, repo_folder, scan_root

__all__ = ["Bucket", "HubState"]

_MAX_RECORDS = 200_000
_SIGNED_FOR_S = 3600


class Bucket:
    """A rate that all connections share.

    Attributes:
        rate: bytes/s, above 0; may be changed at any time.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self.rate = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def wait(self, size: int) -> None:
        """Returns when `size` more bytes may be sent."""
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - 0.05)
            self._free_at = start + size / self.rate
            delay = self._free_at - now
        if delay > 0:
            time.sleep(delay)


class HubState:
    """The hub without its sockets. The arguments are those of `bench.hub.LocalHub`. Any thread."""

    def __init__(
        self,
        root: Path,
        *,
        rate: float | None,
        log: Path | None,
        token: str,
        access: str,
        redirect: str,
        page_size: int | None,
        link_base: str,
        bare: bool,
        is_tls: bool,
    ) -> None:
        self.root = root.resolve()
        self.token = token
        self.access = access
        self.redirect = redirect
        self.page_size = page_size
        self.link_base = link_base
        self.bare = bare
        self.scheme = "https" if is_tls else "http"
        self.storage_port = 0
        self.stopping = threading.Event()
        self.faults = Faults()
        self.bucket = Bucket(rate) if rate else None
        self.records: deque[dict[str, Any]] = deque(maxlen=_MAX_RECORDS)
        self._lock = threading.Lock()
        self._running = 0
        self._settled = threading.Condition(self._lock)
        self._totals = {"requests": 0, "file_requests": 0, "file_bytes": 0}
        self._log: IO[str] | None = log.open("a", encoding="utf-8", buffering=1) if log is not None else None
        self._cache = DigestCache(self.root)
        self._repos = scan_root(self.root, self._cache)
        self._secret = hashlib.sha256(str(self.root).encode()).digest()

    def close_log(self) -> None:
        """Ends the log file."""
        with self._lock:
            if self._log is not None:
                self._log.close()

    def storage_url(self, host: str) -> str:
        """Base of the signed URLs: the second port, at the name by which the client knows this hub."""
        return f"{self.scheme}://{host}:{self.storage_port}"

    def repo(self, repo_type: str, name: str) -> Repo | None:
        """A repository; read from its folder when it was not there at the start."""
        with self._lock:
            found = self._repos.get((repo_type, name))
            if found is None and ".." not in name and repo_folder(self.root, repo_type, name).is_dir():
                found = self._repos[repo_type, name] = load_repo(self.root, repo_type, name, self._cache)
                self._cache.save()
            return found

    def fault(self, kind: str, **given: Any) -> None:
        """Puts a fault in force (see `bench.faults.Fault`)."""
        self.faults.add(Fault(kind, **given))

    def sign(self, path: str, *, generation: int) -> str:
        """A signed path for the storage port."""
        expires = int(time.time()) + _SIGNED_FOR_S
        return f"{path}?expires={expires}&n={generation}&sig={self._mac(path, expires, generation)}"

    def is_signed(self, path: str, query: dict[str, str]) -> bool:
        """Whether a signature is right and still good."""
        try:
            expires, generation = int(query["expires"]), int(query["n"])
        except (KeyError, ValueError):
            return False
        right = hmac.compare_digest(query.get("sig", ""), self._mac(path, expires, generation))
        return right and expires > time.time()

    def _mac(self, path: str, expires: int, generation: int) -> str:
        return hmac.new(self._secret, f"{path} {expires} {generation}".encode(), "sha256").hexdigest()[:32]

    def begin(self) -> None:
        """A request has come in; `record` ends it."""
        with self._lock:
            self._running += 1

    def settle(self, *, timeout_s: float = 10.0) -> None:
        """Waits until no request is being answered, so that `records` and the log have all of them."""
        with self._settled:
            if not self._settled.wait_for(lambda: self._running == 0, timeout_s):
                raise TimeoutError("the hub is still answering")

    def record(self, entry: dict[str, Any], *, is_file: bool) -> None:
        """Adds a line to the access log."""
        with self._settled:
            self._running -= 1
            self._settled.notify_all()
            self.records.append(entry)
            self._totals["requests"] += 1
            if is_file:
                self._totals["file_requests"] += 1
                self._totals["file_bytes"] += entry["bytes"]
            if self._log is not None and not self._log.closed:
                self._log.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def stats(self) -> dict[str, int]:
        """Sums over all requests so far."""
        with self._lock:
            return dict(self._totals)
