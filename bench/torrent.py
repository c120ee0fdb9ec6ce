"""libtorrent on the same work, for comparison: peers that know each other's addresses, and a hub as a web seed.

python -m bench lab --torrent, python -m bench.local --torrent (``pip install libtorrent`` first). Settings are those
that were found to be best: TCP only, no limits on uploads and on requests, hub requests of 16 MiB, pieces of 1 MiB.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import wait_until
from bench.lab import HUB_URL, Lab
from bench.models import LabModel
from bench.peers import Used
from bench.rss import peak_rss_bytes

__all__ = ["TorrentPeer", "swarm", "torrent"]

_PORT = 6881
_PIECE_BYTES = 1 << 20
_POLL_S = 0.01
_SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "unchoke_slots_limit": -1,
    "max_out_request_queue": 1500,
    "max_allowed_in_request_queue": 4000,
    "request_queue_time": 3,
    "urlseed_max_request_bytes": 16 << 20,
    "send_buffer_watermark": 3 << 20,
    "allow_multiple_connections_per_ip": True,
    "active_downloads": -1,
    "active_seeds": -1,
    "alert_mask": 0,
    "user_agent": "libtorrent",
}


@dataclass(frozen=True, slots=True)
class TorrentPeer:
    """One node of a swarm.

    Attributes:
        folder: where its copy of the model goes.
        address: host:port that it listens on.
        spawn: starts a command where the node is.
        has: paths of the model's files that it has before it begins.
    """

    name: str
    folder: Path
    address: str
    spawn: Callable[[Sequence[str]], subprocess.Popen[bytes]] = field(repr=False)
    has: Sequence[str] = ()


def torrent(lab: Lab, model: LabModel) -> Used:
    """The model to every node of a lab; the hub is a web seed of each.

    Raises:
        ModuleNotFoundError: libtorrent is not installed.
        RuntimeError: a node ended early.
        CopyError: a node has a wrong copy.
    """
    peers = [
        TorrentPeer(name, node.folder, f"{lab.net.lan_address(name)}:{_PORT}", node.spawn)
        for name, node in lab.nodes.items()
    ]
    return swarm(peers, model, folder=lab.folder, hub_url=HUB_URL)


def swarm(peers: Sequence[TorrentPeer], model: LabModel, *, folder: Path, hub_url: str | None) -> Used:
    """The model to every peer, from the others and from the hub at ``hub_url``, if there is one.

    The time begins when all programs run and have looked at what they have.

    Raises:
        ModuleNotFoundError: libtorrent is not installed.
        RuntimeError: a peer ended early.
        CopyError: a peer has a wrong copy.
    """
    metainfo = folder / "model.torrent"
    metainfo.write_bytes(_metainfo(model, hub_url))
    jobs = []
    for peer in peers:
        peer.folder.mkdir(exist_ok=True)
        for path in peer.has:
            copy = peer.folder / model.commit / path
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.folder / path, copy)
        others = [other.address for other in peers if other is not peer]
        command = [sys.executable, __file__, str(metainfo), str(folder), str(peer.folder), peer.address, *others]
        jobs.append(peer.spawn(command))

    def all_say(word: str) -> bool:
        for peer, job in zip(peers, jobs, strict=True):
            if job.poll() is not None:
                raise RuntimeError(f"{peer.name} ended with exit code {job.returncode}: see {peer.folder}")
        return all((peer.folder / word).exists() for peer in peers)

    wait_until(lambda: all_say("ready"), timeout_s=120, what="every node has looked at its files")
    begin = time.monotonic()
    (folder / "begin").touch()
    wait_until(lambda: all_say("done"), timeout_s=900, what="every node has the torrent")
    wall_s = time.monotonic() - begin
    (folder / "end").touch()
    usages = []
    for peer, job in zip(peers, jobs, strict=True):
        if job.wait(60):
            raise RuntimeError(f"{peer.name} ended with exit code {job.returncode}: see {peer.folder}")
        usages.append(json.loads((peer.folder / "usage").read_text(encoding="utf-8")))
        model.check_folder(peer.folder / model.commit)
    return Used(wall_s, sum(one["cpu_s"] for one in usages), max(one["rss_bytes"] for one in usages))


def _metainfo(model: LabModel, hub_url: str | None) -> bytes:
    """A torrent whose files are at the hub below the seed's URL, which ends before the commit."""
    lt = importlib.import_module("libtorrent")
    files = lt.file_storage()
    for path in sorted(model.digests):
        files.add_file(f"{model.commit}/{path}", (model.folder / path).stat().st_size)
    flags = lt.create_torrent.v1_only
    if hub_url is None:  # no piece is in two files: of what nodes have of one another nothing is lacking then
        flags |= lt.create_torrent.canonical_files
    made = lt.create_torrent(files, _PIECE_BYTES, flags)
    parent = model.root.parent / "torrent"
    parent.mkdir(exist_ok=True)
    link = parent / model.commit
    if not link.is_symlink():
        link.symlink_to(model.folder)
    lt.set_piece_hashes(made, str(parent))
    if hub_url is not None:
        made.add_url_seed(f"{hub_url}/{model.repo}/resolve/")
    return bytes(lt.bencode(made.generate()))


def main(argv: Sequence[str] | None = None) -> int:
    """One node: looks at what it has, downloads when it is told to, and sends until it is told to end."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("metainfo", type=Path)
    parser.add_argument("words", type=Path, help="the folder where all are told to begin and to end")
    parser.add_argument("folder", type=Path)
    parser.add_argument("listen")
    parser.add_argument("peer", nargs="*")
    args = parser.parse_args(argv)
    lt: Any = importlib.import_module("libtorrent")
    session = lt.session(_SETTINGS | {"listen_interfaces": args.listen, "outgoing_interfaces": ""})
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(str(args.metainfo))
    parameters.save_path = str(args.folder)
    parameters.storage_mode = lt.storage_mode_t.storage_mode_allocate
    flags = lt.torrent_flags
    parameters.flags = (parameters.flags & ~(flags.auto_managed | flags.paused)) | flags.stop_when_ready
    handle = session.add_torrent(parameters)
    _wait(lambda: bool(handle.status().flags & flags.paused))
    (args.folder / "ready").touch()
    _wait((args.words / "begin").exists)
    before_s = _cpu_s()
    handle.resume()
    for peer in args.peer:
        host, _, port = peer.rpartition(":")
        handle.connect_peer((host, int(port)))
    _wait(lambda: bool(handle.status().is_seeding))
    (args.folder / "done").touch()
    _wait((args.words / "end").exists)
    usage = {"cpu_s": _cpu_s() - before_s, "rss_bytes": peak_rss_bytes()}
    (args.folder / "usage").write_text(json.dumps(usage), encoding="utf-8")
    return 0


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(_POLL_S)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
