"""libtorrent on the same work, for comparison: peers that know each other's addresses, and the hub as a web seed.

python -m bench lab --torrent (``pip install libtorrent`` first). Settings are those that were found to be best here:
TCP only, no limits on uploads and on requests, hub requests of 16 MiB, pieces of 1 MiB.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import wait_until
from bench.lab import HUB_URL, Lab
from bench.models import LabModel
from bench.peers import Used

__all__ = ["torrent"]

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


def torrent(lab: Lab, model: LabModel) -> Used:
    """The model to every node of a lab; the hub is a web seed of each.

    Raises:
        ModuleNotFoundError: libtorrent is not installed.
        RuntimeError: a node ended early, or has a wrong copy.
    """
    metainfo = lab.folder / "model.torrent"
    metainfo.write_bytes(_metainfo(model))
    addresses = {name: lab.net.lan_address(name) for name in lab.nodes}
    begin = time.monotonic()
    jobs = []
    for name, node in lab.nodes.items():
        others = [f"{address}:{_PORT}" for other, address in addresses.items() if other != name]
        command = [sys.executable, __file__, str(metainfo), str(node.folder), f"{addresses[name]}:{_PORT}", *others]
        jobs.append(node.spawn(command))

    def done() -> bool:
        for (name, node), job in zip(lab.nodes.items(), jobs, strict=True):
            if job.poll() is not None:
                raise RuntimeError(f"{name} ended with exit code {job.returncode}: see {node.folder}")
        return all((node.folder / "done").exists() for node in lab.nodes.values())

    wait_until(done, timeout_s=900, what="every node has the torrent")
    wall_s = time.monotonic() - begin
    (lab.folder / "end").touch()
    usages = []
    for (name, node), job in zip(lab.nodes.items(), jobs, strict=True):
        if job.wait(60):
            raise RuntimeError(f"{name} ended with exit code {job.returncode}: see {node.folder}")
        usages.append(json.loads((node.folder / "usage").read_text(encoding="utf-8")))
        for path, digest in model.digests.items():
            copy = node.folder / model.commit / path
            if hashlib.sha256(copy.read_bytes()).hexdigest() != digest:
                raise RuntimeError(f"{name}: {path} is not what the hub has")
    return Used(wall_s, sum(one["cpu_s"] for one in usages), max(one["rss_bytes"] for one in usages))


def _metainfo(model: LabModel) -> bytes:
    """A torrent whose files are at the hub below the seed's URL, which ends before the commit."""
    lt = importlib.import_module("libtorrent")
    files = lt.file_storage()
    for path in sorted(model.digests):
        files.add_file(f"{model.commit}/{path}", (model.folder / path).stat().st_size)
    made = lt.create_torrent(files, _PIECE_BYTES, lt.create_torrent.v1_only)
    parent = model.root.parent / "torrent"
    parent.mkdir(exist_ok=True)
    link = parent / model.commit
    if not link.is_symlink():
        link.symlink_to(model.folder)
    lt.set_piece_hashes(made, str(parent))
    made.add_url_seed(f"{HUB_URL}/{model.repo}/resolve/")
    return bytes(lt.bencode(made.generate()))


def main(argv: Sequence[str] | None = None) -> int:
    """One node: downloads, says that it is done, and sends until it is told to end."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("metainfo", type=Path)
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
    parameters.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handle = session.add_torrent(parameters)
    for peer in args.peer:
        host, _, port = peer.rpartition(":")
        handle.connect_peer((host, int(port)))
    while not handle.status().is_seeding:
        time.sleep(_POLL_S)
    (args.folder / "done").touch()
    while not (args.folder.parent / "end").exists():
        time.sleep(_POLL_S)
    used = resource.getrusage(resource.RUSAGE_SELF)
    usage = {"cpu_s": used.ru_utime + used.ru_stime, "rss_bytes": used.ru_maxrss * 1024}
    (args.folder / "usage").write_text(json.dumps(usage), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
