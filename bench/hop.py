"""One hop on loopback: this program's piece server and fetch pool, beside nginx and curl, in the same run.

python bench/hop.py [--mib 1024] [--connections 1,4,8] [--runs 5] [--cold] [--folder DIR]

Each run writes a fresh file on disk, reserved beforehand, from a source in the page cache (with --cold: not in it).
Ours verifies each piece by BLAKE3 and notes its digest; curl verifies nothing. Each end is a process of its own. CPU is
user and system time of both ends by 10^9 bytes. The runs of all rows take turns, so that a busy machine is so for all.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from blake3 import blake3

from exo_dl.core.manifest import piece_size_for
from exo_dl.core.swarm import FetchResult
from exo_dl.net.fetch import FetchEvent, FetchPool, JobEnded, PeerJob, PieceTarget
from exo_dl.net.piece_server import PieceServer, piece_path
from exo_dl.net.tickets import TicketKey, TicketSigner, authorizer
from exo_dl.store.extent import Extent

__all__ = ["Hop", "main"]

_PULL = "0" * 20
_KEY = TicketKey(b"bench" * 8)
_ASK_BYTES = 16 << 20
_GB = 10**9
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
  server {{ listen 127.0.0.1:{port}; root "{files}"; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Hop:
    """One transfer, or the medians of several.

    Attributes:
        gb_per_s: 10^9 bytes per second, from the first request to the last byte written.
        cpu_s_per_gb: of both ends.
        receive_cpu_s_per_gb: of the receiving end alone.
        peak_rss_mb: of the receiving end, in 10^6 bytes; 0 where it is not known.
    """

    name: str
    gb_per_s: float
    cpu_s_per_gb: float
    receive_cpu_s_per_gb: float
    peak_rss_mb: float


def serve(source: Path) -> None:
    """The sending end: prints its port, and ends with its standard input."""
    piece = piece_size_for(source.stat().st_size)
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size

        def locate(_: str, first: int, end: int) -> list[Extent]:
            return [Extent(file.fileno(), first * piece, min(end * piece, size) - first * piece)]

        server = PieceServer(
            hosts=["127.0.0.1"], port=0, locate=locate, authorize=authorizer(_KEY), max_uploads=16, max_per_peer=16
        )
        server.start()
        print(server.port, flush=True)
        sys.stdin.read()
        server.close()


def fetch(source: Path, target: Path, port: int, connections: int) -> None:
    """The receiving end: prints seconds, CPU seconds and peak RSS as JSON."""
    size = source.stat().st_size
    piece = piece_size_for(size)
    digests = source.with_suffix(".digests").read_bytes()
    out = os.open(target, os.O_RDWR | os.O_CREAT)
    notes = os.open(target.with_suffix(".pieces"), os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(out, 0, size)
    step = max(1, _ASK_BYTES // piece)
    count = -(-size // piece)
    runs = iter([(first, min(first + step, count)) for first in range(0, count, step)])
    signer = TicketSigner(_KEY, "bench")
    finished = threading.Event()
    bad: list[JobEnded] = []
    left = -(-count // step)

    def submit() -> None:
        run = next(runs, None)
        if run is None:
            return
        path = piece_path(_PULL, *run)
        targets = tuple(
            PieceTarget(i, out, i * piece, min(piece, size - i * piece), digests[32 * i : 32 * i + 32])
            for i in range(*run)
        )
        headers = signer.headers
        pool.submit(
            PeerJob(
                run[0],
                ("127.0.0.1", port),
                path,
                lambda: headers("GET", path),
                targets,
                lambda piece, digest: os.pwrite(notes, digest, 32 * piece),
            )
        )

    def events(batch: list[FetchEvent]) -> None:
        nonlocal left
        for event in batch:
            if isinstance(event, JobEnded):
                left -= 1
                if event.result is not FetchResult.DONE:
                    bad.append(event)
                submit()
        if left <= 0 or bad:
            finished.set()

    pool = FetchPool(events=events)
    begin = time.monotonic()
    cpu = time.process_time()
    for _ in range(connections):
        submit()
    finished.wait()
    seconds = time.monotonic() - begin
    cpu = time.process_time() - cpu
    pool.close()
    if bad:
        sys.exit(f"A job ended with {bad[0].result}: {bad[0].detail}")
    # Not ru_maxrss: that begins with what the process was before its exec.
    peak = re.search(r"VmHWM:\s+([0-9]+) kB", Path("/proc/self/status").read_text())
    print(json.dumps({"seconds": seconds, "cpu_s": cpu, "rss": int(peak[1]) * 1024 if peak else 0}))


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and its children so far."""
    process = psutil.Process(pid)
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return sum(t.user + t.system for t in times)


@contextmanager
def _running(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, **options) as process:
        try:
            yield process
        finally:
            process.terminate()


def _me(*args: object) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), *map(str, args)]


def _ours(name: str, server: tuple[int, int], source: Path, target: Path, connections: int) -> Hop:
    pid, port = server
    before = _cpu_s(pid)
    done = subprocess.run(
        _me("--end", "fetch", "--source", source, "--target", target, "--port", port, "--connections", connections),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    said = json.loads(done.stdout)
    gb = source.stat().st_size / _GB
    sent = _cpu_s(pid) - before
    return Hop(name, gb / said["seconds"], (said["cpu_s"] + sent) / gb, said["cpu_s"] / gb, said["rss"] / 1e6)


def _curl(server: tuple[int, int], source: Path, target: Path) -> Hop:
    pid, port = server
    size = source.stat().st_size
    with target.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    before = _cpu_s(pid)
    url = f"http://127.0.0.1:{port}/{source.name}"
    begin = time.monotonic()
    with subprocess.Popen(["curl", "-sS", "-o", str(target), url]) as process:
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
    seconds = time.monotonic() - begin
    if process.returncode or target.stat().st_size != size:
        sys.exit("curl failed")
    gb = size / _GB
    cpu = usage.ru_utime + usage.ru_stime
    return Hop("nginx -> curl", gb / seconds, (cpu + _cpu_s(pid) - before) / gb, cpu / gb, 0.0)


def _make_source(path: Path, mib: int) -> None:
    """Random bytes, and the digests of their pieces; both end up in the page cache."""
    piece = piece_size_for(mib << 20)
    digests = bytearray()
    with path.open("wb") as file:
        for _ in range((mib << 20) // piece):
            data = os.urandom(piece)
            digests += blake3(data).digest()
            file.write(data)
    path.with_suffix(".digests").write_bytes(digests)
    os.sync()


def _prepare(source: Path, target: Path, *, cold: bool) -> None:
    """The same state before each run: no target, the disk at rest, the source in the page cache or not."""
    for path in (target, target.with_suffix(".pieces")):
        path.unlink(missing_ok=True)
    os.sync()
    with source.open("rb") as file:
        if cold:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            while file.read(1 << 24):
                pass


def _wait_for_port(port: int) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    sys.exit("nginx does not start")


def compare(folder: Path, *, mib: int, connections: list[int], runs: int, cold: bool) -> list[Hop]:
    """Medians of each row, all rows taking turns."""
    source, target = folder / "source.bin", folder / "target.bin"
    _make_source(source, mib)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nginx_port = free.getsockname()[1]
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(root=folder, files=folder, port=nginx_port))
    folder.chmod(0o755)
    with ExitStack() as stack:
        ours = stack.enter_context(_running(_me("--end", "serve", "--source", source), stdout=subprocess.PIPE))
        nginx = stack.enter_context(_running(["nginx", "-c", str(config), "-p", str(folder)]))
        assert ours.stdout is not None  # noqa: S101  # it is a pipe
        server = ours.pid, int(ours.stdout.readline())
        _wait_for_port(nginx_port)
        rows: dict[str, Callable[[], Hop]] = {"nginx -> curl": lambda: _curl((nginx.pid, nginx_port), source, target)}
        for count in connections:
            name = f"exo-dl, {count} connection{'s' if count > 1 else ''}"
            rows[name] = lambda name=name, count=count: _ours(name, server, source, target, count)  # type: ignore[misc]
        found: dict[str, list[Hop]] = {name: [] for name in rows}
        for turn in range(runs + 1):
            for name, run in rows.items():
                _prepare(source, target, cold=cold)
                hop = run()
                if turn:  # the first turn warms up: pages, disk, interpreter caches
                    found[name].append(hop)
    return [
        Hop(name, *(statistics.median(getattr(hop, key) for hop in hops) for key in list(asdict(hops[0]))[1:]))
        for name, hops in found.items()
    ]


def main(argv: list[str] | None = None) -> int:
    """Runs the comparison; prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the file in MiB")
    parser.add_argument("--connections", default="1,4,8", help="connections of ours, one row each")
    parser.add_argument("--runs", type=int, default=5, help="runs of each row, medians are shown")
    parser.add_argument("--cold", action="store_true", help="the source is not in the page cache")
    parser.add_argument("--folder", type=Path, help="where the files are made; needs twice their size")
    parser.add_argument("--end", choices=["serve", "fetch"], help=argparse.SUPPRESS)
    for name in ("--source", "--target"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.end == "serve":
        serve(options.source)
        return 0
    if options.end == "fetch":
        fetch(options.source, options.target, options.port, int(options.connections))
        return 0
    counts = [int(each) for each in options.connections.split(",")]
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="exo-dl-hop-") as folder:
        hops = compare(Path(folder), mib=options.mib, connections=counts, runs=options.runs, cold=options.cold)
    base = hops[0]
    print(f"{'':24} {'GB/s':>7} {'x':>6} {'CPU s/GB':>9} {'x':>6} {'receiver':>9} {'RSS MB':>7}")
    for hop in hops:
        rss = f"{hop.peak_rss_mb:.0f}" if hop.peak_rss_mb else "-"
        print(
            f"{hop.name:24} {hop.gb_per_s:7.2f} {hop.gb_per_s / base.gb_per_s:6.2f} {hop.cpu_s_per_gb:9.2f}"
            f" {hop.cpu_s_per_gb / base.cpu_s_per_gb:6.2f} {hop.receive_cpu_s_per_gb:9.2f} {rss:>7}"
        )
    print(json.dumps({"mib": options.mib, "cold": options.cold, "rows": [asdict(hop) for hop in hops]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
