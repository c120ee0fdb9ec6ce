"""``python -m bench.startup``: what a pull takes before its first byte and after its last one.

Before: in round trips to the hub, from the slope between a hub next door and one that is far away, so that the start of
the command and all other work of the machine fall out. After: from the hub's last byte to the command's end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.cluster import Node
from bench.farhub import FarHub
from bench.hub import LocalHub
from bench.models import LabModel, make_lab_model
from exo_dl.net.identity import new_secret

__all__ = ["Times", "main", "measure"]

_FAR_S = 0.5


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of one pull: from the command to the hub's first byte, and from its last one to the command's end."""

    first_byte_s: float
    end_s: float


def measure(model: LabModel, folder: Path, *, rtt_s: float) -> Times:
    """One pull on one fresh daemon, of a hub so far away."""
    log = folder / "access.log"
    with LocalHub(model.root, log=log) as hub, FarHub(hub.port, rtt_s=rtt_s) as far:
        node = Node("one", folder, secret=new_secret(), endpoint=far.url, settings={"EXO_DL_MDNS": "false"})
        node.start()
        try:
            node.wait_ready()
            time.sleep(1.0)  # what a daemon does after its start is no part of a pull
            begin, offset_s = time.monotonic(), time.time() - time.monotonic()
            node.json("pull", model.repo)
            end = time.monotonic()
        finally:
            node.stop()
        requests = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        last_s = max(each["time"] + each["seconds"] for each in requests) - offset_s
        return Times(far.body_began_s - begin, end - last_s - rtt_s / 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Takes turns between near and far; prints the medians and the round trips that they make."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="of each distance (default: 5)")
    parser.add_argument("--size-mib", type=int, default=64, help="size of the model (default: 64)")
    args = parser.parse_args(argv)
    found: dict[float, list[Times]] = {0.0: [], _FAR_S: []}
    with tempfile.TemporaryDirectory(prefix="exo-dl-startup-") as scratch:
        model = make_lab_model(Path(scratch) / "hub", size_bytes=args.size_mib << 20)
        for _ in range(args.runs):
            for rtt_s, times in found.items():
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    times.append(measure(model, Path(folder), rtt_s=rtt_s))
    near_s, far_s = (statistics.median(each.first_byte_s for each in times) for times in found.values())
    end_s = statistics.median(each.end_s for each in found[0.0])
    print(f"first byte: {near_s:.2f} s with the hub next door, {far_s:.2f} s with a round trip of {_FAR_S:g} s to it:")
    print(f"            {(far_s - near_s) / _FAR_S:.2f} round trips")
    print(f"end:        {end_s:.3f} s from the hub's last byte to the end of the command")
    print(json.dumps({str(rtt_s): [asdict(each) for each in times] for rtt_s, times in found.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
