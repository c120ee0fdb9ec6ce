"""``make bench-hop``: one hop on loopback, this program's piece server and fetch pool beside nginx and curl.

Each run writes a fresh file on disk, reserved beforehand, from a source in the page cache ("warm", "tls") or not in it
("cold"). Ours verifies each piece by BLAKE3 and notes its digest; curl verifies nothing. Each end is a process of its
own. CPU is user and system time of both ends by 10^9 bytes. The runs of all rows take turns, so that a busy machine is
so for all; medians are shown.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import psutil

from bench.cluster import wait_until
from bench.hop_ends import make_source
from bench.ports import free_port, listens
from exo_dl.net.identity import Identity, new_node_id, new_secret

__all__ = ["Hop", "main", "medians"]

_GB = 10**9
_KINDS = ("warm", "cold", "tls")
_NGINX = """\
daemon off;
worker_processes 2;
pid "{root}/nginx.pid";
error_log "{root}/error.log" warn;
events {{ worker_connections 100; }}
http {{
  sendfile on;
  tcp_nopush on;
  access_log off;
  client_body_temp_path "{root}/tmp"; proxy_temp_path "{root}/tmp"; fastcgi_temp_path "{root}/tmp";
  uwsgi_temp_path "{root}/tmp"; scgi_temp_path "{root}/tmp";
  ssl_protocols TLSv1.3;
  ssl_certificate "{root}/node.pem";
  ssl_certificate_key "{root}/node.key";
  server {{ listen 127.0.0.1:{port}; listen 127.0.0.1:{tls_port} ssl; root "{root}"; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Hop:
    """One transfer, or the medians of several.

    Attributes:
        kind: "warm", "cold" or "tls": rows of one kind compare.
        gb_per_s: 10^9 bytes per second, from the first request to the last byte written.
        cpu_s_per_gb: of both ends.
        receive_cpu_s_per_gb: of the receiving end alone.
        peak_rss_mb: of the receiving end, in 10^6 bytes; 0 where it is not known.
    """

    kind: str
    name: str
    gb_per_s: float
    cpu_s_per_gb: float
    receive_cpu_s_per_gb: float
    peak_rss_mb: float


def medians(hops: Sequence[Hop]) -> Hop:
    """The medians of several runs of one row."""
    numbers = list(asdict(hops[0]))[2:]
    return Hop(hops[0].kind, hops[0].name, *(statistics.median(getattr(hop, each) for hop in hops) for each in numbers))


@dataclass(frozen=True, slots=True)
class _Bench:
    """What all rows share: the file, where it goes, and the two servers."""

    source: Path
    target: Path
    secret: str
    server: int
    port: int
    node: str
    nginx: int
    nginx_port: int
    nginx_tls_port: int

    def ours(self, kind: str, connections: int) -> Hop:
        """Our receiver from our server."""
        before_s = _cpu_s(self.server)
        node = self.node if kind == "tls" else "-"
        command = _end("fetch", self.source, self.secret, self.target, self.port, node, connections)
        said = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        gb = self.source.stat().st_size / _GB
        cpu_s = said["cpu_s"] + _cpu_s(self.server) - before_s
        name = f"exo-dl, {connections} connection{'s' if connections > 1 else ''}"
        return Hop(kind, name, gb / said["seconds"], cpu_s / gb, said["cpu_s"] / gb, said["rss_bytes"] / 1e6)

    def curl(self, kind: str) -> Hop:
        """Curl from nginx, into a file that is reserved as well."""
        size = self.source.stat().st_size
        with self.target.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        scheme, port = ("https", self.nginx_tls_port) if kind == "tls" else ("http", self.nginx_port)
        url = f"{scheme}://127.0.0.1:{port}/{self.source.name}"
        before_s, begin = _cpu_s(self.nginx), monotonic()
        with subprocess.Popen(["curl", "-sSk", "-o", str(self.target), url]) as process:
            _, code, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(code)
        seconds = monotonic() - begin
        if process.returncode or self.target.stat().st_size != size:
            sys.exit("curl failed")
        gb = size / _GB
        curl_s = usage.ru_utime + usage.ru_stime
        return Hop(kind, "nginx -> curl", gb / seconds, (curl_s + _cpu_s(self.nginx) - before_s) / gb, curl_s / gb, 0.0)

    def prepare(self, kind: str) -> None:
        """The same state before each run: no target, the disk at rest, the source in the page cache or not."""
        for path in (self.target, self.target.with_suffix(".pieces")):
            path.unlink(missing_ok=True)
        os.sync()
        with self.source.open("rb") as file:
            if kind == "cold":
                # Not at once: a server reads ahead, and what it reads just now stays.
                wait_until(lambda: _leaves(file.fileno()), timeout_s=10, what="the source leaves the page cache")
            else:
                while file.read(1 << 24):
                    pass


def _leaves(fd: int) -> bool:
    """Asks the kernel to drop a file's pages; whether they are gone."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return not _is_cached(fd)


def _is_cached(fd: int) -> bool:
    """Whether the middle of a file is in the page cache."""
    try:
        return bool(os.preadv(fd, [bytearray(1)], os.fstat(fd).st_size // 2, os.RWF_NOWAIT))
    except OSError as error:
        if error.errno == errno.EAGAIN:
            return False
        raise


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


def _end(*args: object) -> list[str]:
    return [sys.executable, "-m", "bench.hop_ends", *map(str, args)]


@contextmanager
def _running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


@contextmanager
def _bench(folder: Path, *, mib: int) -> Iterator[_Bench]:
    source, secret = folder / "source.bin", new_secret()
    make_source(source, mib)
    folder.chmod(0o755)  # nginx' workers are another user
    key, certificate = Identity(secret, new_node_id()).certificate()
    (folder / "node.key").write_bytes(key)
    (folder / "node.pem").write_bytes(certificate)
    port, tls_port = free_port(), free_port()
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(root=folder, port=port, tls_port=tls_port))
    with ExitStack() as stack:
        ours = stack.enter_context(_running(_end("serve", source, secret), stdout=subprocess.PIPE))
        nginx = stack.enter_context(_running(["nginx", "-c", str(config), "-p", str(folder)]))
        assert ours.stdout is not None  # noqa: S101  # it is a pipe
        our_port, node = ours.stdout.readline().split()
        wait_until(lambda: listens(tls_port), timeout_s=5, what="nginx listens")
        yield _Bench(source, folder / "target.bin", secret, ours.pid, int(our_port), node, nginx.pid, port, tls_port)


def compare(folder: Path, *, mib: int, kinds: Sequence[str], connections: Sequence[int], runs: int) -> list[Hop]:
    """Medians of each row, all rows taking turns. With several connections where the kind is not "warm": 4."""
    with _bench(folder, mib=mib) as bench:
        rows: list[tuple[str, Callable[[], Hop]]] = []
        for kind in kinds:
            rows.append((kind, partial(bench.curl, kind)))
            counts = connections if kind == "warm" else [4]
            rows += [(kind, partial(bench.ours, kind, count)) for count in counts]
        found: list[list[Hop]] = [[] for _ in rows]
        for turn in range(runs + 1):
            for (kind, run), hops in zip(rows, found, strict=True):
                bench.prepare(kind)
                hop = run()
                if turn:  # the first turn warms up: pages, disk, interpreter caches
                    hops.append(hop)
    return [medians(hops) for hops in found]


def _print_table(hops: Sequence[Hop]) -> None:
    print(f"{'':5} {'':22} {'GB/s':>7} {'x':>6} {'CPU s/GB':>9} {'x':>6} {'receiver':>9} {'RSS MB':>7}")
    base = hops[0]
    for hop in hops:
        if hop.kind != base.kind:
            base = hop
        rss = f"{hop.peak_rss_mb:.0f}" if hop.peak_rss_mb else "-"
        speed, cpu = hop.gb_per_s / base.gb_per_s, hop.cpu_s_per_gb / base.cpu_s_per_gb
        print(
            f"{hop.kind:5} {hop.name:22} {hop.gb_per_s:7.2f} {speed:6.2f} {hop.cpu_s_per_gb:9.2f} {cpu:6.2f}"
            f" {hop.receive_cpu_s_per_gb:9.2f} {rss:>7}"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the comparison; prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.hop", description=__doc__)
    parser.add_argument("kind", nargs="*", help=f"default: {' '.join(_KINDS)}")
    parser.add_argument("--mib", type=int, default=512, help="size of the file in MiB (default: 512)")
    parser.add_argument("--connections", default="1,4,8", help="connections of ours where the source is warm")
    parser.add_argument("--runs", type=int, default=5, help="runs of each row (default: 5)")
    parser.add_argument("--folder", type=Path, help="where the files are made; needs twice their size")
    options = parser.parse_args(argv)
    kinds = options.kind or list(_KINDS)
    if unknown := sorted(set(kinds) - set(_KINDS)):
        parser.error(f"no such kind: {', '.join(unknown)}")
    counts = [int(each) for each in options.connections.split(",")]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="exo-dl-hop-") as folder:
        hops = compare(Path(folder), mib=options.mib, kinds=kinds, connections=counts, runs=options.runs)
    _print_table(hops)
    print(json.dumps({"mib": options.mib, "rows": [asdict(hop) for hop in hops]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
