"""What the local hub answers to each request (see `bench.hub`)."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from bench.faults import Fault
from bench.hub_state import HubState
from bench.repos import Repo, RepoFile, file_item

__all__ = ["HubHandler"]

_API = re.compile(r"/api/(models|datasets|spaces)/([^/]+/[^/]+?)(?:/(revision|tree|refs|paths-info)(?:/(.*))?)?/?")
_RESOLVE = re.compile(r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_STORED = re.compile(r"/(?:_storage|api/resolve-cache)/(model|dataset|space)/([^/]+/[^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_CHUNK_BYTES = 1 << 30
_LIMITED_CHUNK_BYTES = 64 << 10
_MAX_BODY_BYTES = 8 << 20


class HubHandler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_version = "local-hub"
    sys_version = ""
    timeout = None

    def setup(self) -> None:
        """Names the hub."""
        super().setup()
        self.hub: HubState = self.server.hub  # type: ignore[attr-defined]
        self.is_storage: bool = self.server.is_storage  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: `HubState.record` has the access log."""

    def do_GET(self) -> None:
        """Bytes, JSON and control."""
        self._serve()

    def do_HEAD(self) -> None:
        """As GET without a body."""
        self._serve()

    def do_POST(self) -> None:
        """paths-info and faults."""
        self._serve()

    def do_DELETE(self) -> None:
        """Faults."""
        self._serve()

    def _serve(self) -> None:
        started = time.time()
        self.sent_bytes = 0
        self.sent_status = 0
        self.fault: Fault | None = None
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.query = dict(parse_qsl(parts.query, keep_blank_values=True))
        length = self.headers.get("Content-Length") or "0"
        self.body = self.rfile.read(min(int(length), _MAX_BODY_BYTES)) if length.isdigit() else b""
        is_control = path.startswith("/_") and not path.startswith("/_storage/")
        is_file = False
        if not is_control:
            self.hub.begin()
        try:
            if is_control:
                self._control(path)
            elif path.startswith("/api/") and not path.startswith("/api/resolve-cache/"):
                self._api(path)
            else:
                is_file = True
                self._file(path)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            if not is_control:
                entry = {
                    "time": round(started, 3),
                    "client": self.client_address[0],
                    "port": self.client_address[1],
                    "method": self.command,
                    "path": self.path,
                    "range": self.headers.get("Range") or "",
                    "status": self.sent_status,
                    "bytes": self.sent_bytes,
                    "seconds": round(time.time() - started, 4),
                    "auth": self.headers.get("Authorization") is not None,
                    "storage": self.is_storage,
                    "fault": self.fault.kind if self.fault else "",
                }
                self.hub.record(entry, is_file=is_file and self.command == "GET" and self.sent_status in (200, 206))

    # --- answers -----------------------------------------------------------------------------------------------

    def _head(self, status: int, headers: dict[str, str], length: int) -> None:
        self.sent_status = status
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self._head(status, headers, len(content))
        if self.command != "HEAD" and content:
            self.wfile.write(content)
            self.sent_bytes += len(content)

    def _json(self, value: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value, ensure_ascii=False).encode()
        if self.fault is not None and self.fault.kind == "truncate":
            content = content[: len(content) // 2]
        elif self.fault is not None and self.fault.kind == "json":
            content = self.fault.body.encode()
        self._send(status, content, {"Content-Type": "application/json; charset=utf-8"} | (headers or {}))

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        given = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {}) | (headers or {})
        self._send(status, json.dumps({"error": message}).encode(), given | {"Content-Type": "application/json"})

    def _faulty(self, path: str, *, on: str) -> bool:
        """Takes the fault for this request; True where it is the whole answer."""
        fault = self.fault = self.hub.faults.take(path, self.client_address[0], on=on)
        if fault is None:
            return False
        if fault.kind == "redirect":
            self._send(302, b"", {"Location": fault.to})
            return True
        if fault.kind != "status":
            return False
        headers = {}
        if fault.retry_after_s is not None and fault.ratelimit:
            kind = "resolvers" if on == "file" else "api"
            headers["RateLimit"] = f'"{kind}";r=0;t={fault.retry_after_s:.0f}'
            headers["RateLimit-Policy"] = f'"fixed window";"{kind}";q=3000;w=300'
        elif fault.retry_after_s is not None:
            headers["Retry-After"] = f"{fault.retry_after_s:.0f}"
        self._error(fault.status, fault.code, "made on order", headers)
        return True

    def _control(self, path: str) -> None:
        if path == "/_health":
            self._json({"ok": True})
        elif path == "/_stats":
            self._json(self.hub.stats())
        elif path == "/_faults" and self.command == "DELETE":
            self.hub.faults.clear()
            self._json([])
        elif path == "/_faults" and self.command == "POST":
            try:
                self.hub.faults.order(json.loads(self.body))
            except (ValueError, TypeError) as error:
                self._error(400, "", str(error))
                return
            self._json(self.hub.faults.listed())
        elif path == "/_faults":
            self._json(self.hub.faults.listed())
        else:
            self._error(404, "", "no such control")

    # --- who may ----------------------------------------------------------------------------------------------

    def _allowed(self, *, needs_token: bool) -> bool:
        """Sends the refusal where the token is missing or wrong."""
        given = self.headers.get("Authorization")
        if not needs_token or given == f"Bearer {self.hub.token}":
            return True
        if self.hub.access == "private":
            self._error(401 if given is None else 404, "RepoNotFound", "Repository not found")
        else:
            self._error(401 if given is None else 403, "GatedRepo", "Access to this model is restricted.")
        return False

    def _repo(self, repo_type: str, name: str) -> Repo | None:
        found = self.hub.repo(repo_type, name)
        if found is None:
            status = 401 if self.headers.get("Authorization") is None else 404
            self._error(status, "RepoNotFound", "Repository not found")
        return found

    # --- what it says ------------------------------------------------------------------------------------------

    def _api(self, path: str) -> None:
        match = _API.fullmatch(path)
        if match is None:
            self._error(404, "", "not found")
            return
        if self._faulty(path, on="api") or not self._allowed(needs_token=self.hub.access == "private"):
            return
        repo = self._repo(match[1].removesuffix("s"), match[2])
        if repo is None:
            return
        what, rest = match[3] or "revision", match[4] or ""
        if what == "refs":
            self._json(repo.refs())
            return
        revision, _, folder = rest.partition("/")
        if match[3] and not repo.has_revision(revision):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif what == "tree":
            self._tree(repo, folder)
        elif what == "paths-info":
            self._paths_info(repo)
        else:
            blobs = self.query.get("blobs", "").lower() in ("true", "1") and not self.hub.bare
            gated = "auto" if self.hub.access == "gated" else False
            self._json(repo.info(blobs=blobs, gated=gated, private=self.hub.access == "private"))

    def _tree(self, repo: Repo, folder: str) -> None:
        items = repo.tree(folder, recursive=self.query.get("recursive", "").lower() in ("true", "1"))
        if items is None:
            self._error(404, "EntryNotFound", "no such folder", {"X-Repo-Commit": repo.commit})
            return
        if self.hub.page_size is None:
            self._json(items)
            return
        at = int(self.query.get("cursor") or 0)
        headers = {}
        if at + self.hub.page_size < len(items):
            query = "&".join(f"{k}={v}" for k, v in (self.query | {"cursor": str(at + self.hub.page_size)}).items())
            base = self.hub.link_base or f"{self.hub.scheme}://{self.headers['Host']}"
            headers["Link"] = f'<{base}{urlsplit(self.path).path}?{query}>; rel="next"'
        self._json(items[at : at + self.hub.page_size], headers=headers)

    def _paths_info(self, repo: Repo) -> None:
        if "json" in (self.headers.get("Content-Type") or ""):
            given = json.loads(self.body).get("paths", [])
            paths = [given] if isinstance(given, str) else given
        else:
            paths = [value for name, value in parse_qsl(self.body.decode()) if name == "paths"]
        self._json([file_item(repo.files[path]) for path in paths if path in repo.files])

    # --- bytes -------------------------------------------------------------------------------------------------

    def _file(self, path: str) -> None:
        if self._faulty(path, on="file"):
            return
        stored = _STORED.fullmatch(path)
        if stored is not None:
            repo = self.hub.repo(stored[1], stored[2])
            if repo is None or stored[3] not in repo.files:
                self._error(404, "", "no such object")
            elif self.is_storage and not self._signature_holds(path):
                self._error(403, "", "Request has expired")
            else:
                self._bytes(repo, repo.files[stored[3]], linked=not self.is_storage)
            return
        match = _RESOLVE.fullmatch(path)
        if match is None or self.is_storage:
            self._error(404, "", "not found")
            return
        repo_type = (match[1] or "models").removesuffix("s")
        repo = self._repo(repo_type, match[2])
        if repo is None or not self._allowed(needs_token=self.hub.access != "public"):
            return
        file = repo.files.get(match[4])
        if not repo.has_revision(match[3]):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {match[3]}")
        elif file is None:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": repo.commit})
        elif self.hub.redirect == "hub":
            self._redirect(repo, file)
        else:
            self._bytes(repo, file, linked=True)

    def _signature_holds(self, path: str) -> bool:
        if self.fault is not None and self.fault.kind == "403-signed":
            return False
        return self.hub.is_signed(quote(path), self.query)

    def _redirect(self, repo: Repo, file: RepoFile) -> None:
        headers = self._linked(repo, file)
        tail = quote(f"{repo.repo_type}/{repo.repo}/{file.path}")
        if file.sha256:
            host = (self.headers.get("Host") or "").rpartition(":")[0]
            signed = self.hub.sign(f"/_storage/{tail}", generation=time.monotonic_ns())
            self._send(302, b"", headers | {"Location": self.hub.storage_url(host) + signed})
        else:
            self._send(307, b"", headers | {"Location": f"/api/resolve-cache/{tail}?etag=%22{file.etag}%22"})

    def _linked(self, repo: Repo, file: RepoFile) -> dict[str, str]:
        return {
            "X-Repo-Commit": repo.commit,
            "X-Linked-Size": str(file.size),
            "X-Linked-ETag": f'"{self._etag(file)}"',
        }

    def _etag(self, file: RepoFile) -> str:
        moved = self.fault is not None and self.fault.kind == "etag"
        return file.etag[::-1] if moved else file.etag

    def _bytes(self, repo: Repo, file: RepoFile, *, linked: bool) -> None:
        fault = self.fault
        kind = fault.kind if fault is not None else ""
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        # The storage behind a hub has ETags of its own, which say nothing about the content.
        headers["ETag"] = f'"{self._etag(file)}"' if not self.is_storage else f'"{repo.commit[:32]}-7"'
        if linked:
            headers |= self._linked(repo, file)
        first, end, status = 0, file.size, 200
        asked = _RANGE.fullmatch(self.headers.get("Range") or "")
        if asked is not None and kind != "200-for-206":
            first, status = int(asked[1]), 206
            end = min(file.size, int(asked[2]) + 1) if asked[2] else file.size
            if first >= file.size or end <= first:
                self._error(416, "", "no such range", {"Content-Range": f"bytes */{file.size}"})
                return
            if kind == "short":
                end = first + max(1, (end - first) // 2)
            elif kind == "long":
                end = min(file.size, end + (1 << 20))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{file.size}"
        self._head(status, headers, end - first)
        if self.command == "HEAD":
            return
        with (repo.folder / file.path).open("rb") as opened:
            if fault is not None and kind in ("close", "stall", "wrong-bytes", "slow"):
                self._faulty_body(opened.fileno(), first, end, fault)
            else:
                self._copy(opened.fileno(), first, end)

    def _faulty_body(self, fd: int, first: int, end: int, fault: Fault) -> None:
        at = min(end, first + fault.after_bytes)
        if fault.kind == "slow":
            while first < end and not self.hub.stopping.wait(_LIMITED_CHUNK_BYTES / 8 / fault.rate):
                self._copy(fd, first, min(end, first + _LIMITED_CHUNK_BYTES // 8))
                first += _LIMITED_CHUNK_BYTES // 8
            return
        self._copy(fd, first, at)
        if fault.kind == "wrong-bytes":
            if at < end:
                self.connection.sendall(bytes(byte ^ 0xFF for byte in os.pread(fd, 1, at)))
                self.sent_bytes += 1
                self._copy(fd, at + 1, end)
            return
        if fault.kind == "stall":
            self.hub.stopping.wait(fault.seconds)
        self.close_connection = True
        if at < end:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _copy(self, fd: int, first: int, end: int) -> None:
        """Sends bytes of a file; `sent_bytes` follows what the socket has taken, also when that fails."""
        bucket = self.hub.bucket
        while first < end:
            size = min(end - first, _CHUNK_BYTES if bucket is None else _LIMITED_CHUNK_BYTES)
            if bucket is not None:
                bucket.wait(size)
            if isinstance(self.connection, ssl.SSLSocket):
                count = self.connection.send(os.pread(fd, min(size, 256 << 10), first))
            else:
                count = os.sendfile(self.connection.fileno(), fd, first, size)
            if count == 0:
                raise BrokenPipeError("the file has become shorter")
            first += count
            self.sent_bytes += count
