"""``make demo``: a local hub, three daemons on this machine, one pull, and the proof that it did what it says."""

from __future__ import annotations

import argparse
import hashlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cluster import Node, hub_cache, wait_linked, wait_until
from bench.make_model import make_model
from bench.served import read_requests, summarize
from exo_dl.net.identity import new_secret

__all__ = ["main"]

ROOT = Path(__file__).resolve().parent.parent
REPO = "demo/model"
NAMES = ("n1", "n2", "n3")

# Run by the Python of this environment, with nothing of exo-dl in it: any program that loads a model does this.
_OPEN_OFFLINE = """
import sys
from pathlib import Path
from huggingface_hub import snapshot_download
from safetensors import deserialize

folder = Path(snapshot_download(sys.argv[1]))
count = total = 0
for path in sorted(folder.glob("*.safetensors")):
    for name, tensor in deserialize(path.read_bytes()):
        count += 1
        total += len(tensor["data"])
print(f"{count} tensors, {total / 1e6:.0f} MB of weights")
"""


def main() -> None:
    """Command line: exit code 0 only when every claim that is printed was checked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=300, help="size of the model in MiB (default: 300)")
    parser.add_argument("--hub-mb-per-s", type=int, default=60, help="what the hub can send, MB/s (default: 60)")
    parser.add_argument("--keep", action="store_true", help="leave all files where they are at the end")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=_ensure(ROOT / "demo-data")))
    try:
        with ExitStack() as stack:
            _run(folder, stack, model_mib=options.mib, hub_mb_per_s=options.hub_mb_per_s)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if options.keep:
            print(f"\nEverything is in {folder}.")
        else:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another demo runs
                folder.parent.rmdir()


def _run(folder: Path, stack: ExitStack, *, model_mib: int, hub_mb_per_s: int) -> None:
    _title(f"1. A hub on this machine, with the model {REPO}")
    made = make_model(folder / "hub", REPO, total_mib=model_mib, shards=3)
    total = made["total_bytes"]
    log = folder / "hub.log"
    endpoint = _start_hub(folder, stack, log=log, rate=hub_mb_per_s * 1_000_000)
    print(
        f"   {len(made['files'])} files, {total / 1e6:,.0f} MB, at {endpoint}, which sends {hub_mb_per_s} MB/s at most"
    )

    _title("2. Three daemons, each with its own state directory and Hugging Face cache")
    nodes = _start_nodes(folder, stack, endpoint)
    subprocess.run(nodes[0].command("peers"), env=nodes[0].env, check=True)

    _title(f"3. On {NAMES[0]}: exo-dl pull {REPO}")
    started = time.monotonic()
    done = subprocess.run(nodes[0].command("pull", REPO), env=nodes[0].env, check=False)
    wall_s = time.monotonic() - started
    if done.returncode:
        raise SystemExit(f"The pull ended with exit code {done.returncode}.\n{nodes[0].log_tail()}")
    print(f"   {wall_s:.1f} s from the command to its end")

    _title("4. The proof")
    _prove_digests(nodes, Path(made["folder"]), sorted(made["files"]))
    _prove_bytes(log, total)
    for node in nodes:
        text = node.run([sys.executable, "-c", _OPEN_OFFLINE, REPO], env={"HF_HUB_OFFLINE": "1"})
        print(f"   {node.name}: opened offline by huggingface_hub and safetensors: {text.strip()}")
    print("\nAll of it holds.")


def _start_hub(folder: Path, stack: ExitStack, *, log: Path, rate: int) -> str:
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, str(ROOT / "bench" / "hub.py"), "--root", str(folder / "hub"), "--port", str(port)]
    with (folder / "hub.out").open("wb") as out:
        hub = subprocess.Popen([*command, "--rate", str(rate), "--log", str(log)], stdout=out, stderr=out)
    stack.callback(_end, hub)

    def answers() -> bool:
        if hub.poll() is not None:
            raise SystemExit(f"The hub ended:\n{(folder / 'hub.out').read_text(encoding='utf-8')}")
        try:
            with urllib.request.urlopen(f"{endpoint}/_health", timeout=2) as answer:  # noqa: S310 - our own
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    wait_until(answers, timeout_s=30, what="the hub answers")
    return endpoint


def _start_nodes(folder: Path, stack: ExitStack, endpoint: str) -> list[Node]:
    secret = new_secret()
    # They meet by mDNS. Where this machine's network has no multicast, the first one's address is enough.
    port = _free_port()
    nodes = []
    for name in NAMES:
        first = name == NAMES[0]
        peers = () if first else (f"127.0.0.1:{port}",)
        node = Node(name, folder / name, secret=secret, endpoint=endpoint, port=port if first else 0, peers=peers)
        stack.callback(node.stop)
        node.start()
        nodes.append(node)
    for node in nodes:
        node.wait_ready()
    wait_linked(nodes)
    return nodes


def _prove_digests(nodes: list[Node], source: Path, names: list[str]) -> None:
    for name in names:
        wanted = _sha256(source / name)
        for node in nodes:
            cache = hub_cache(node.home, REPO)
            commit = (cache / "refs" / "main").read_text(encoding="ascii")
            if _sha256(cache / "snapshots" / commit / name) != wanted:
                raise SystemExit(f"{node.name} has other bytes in {name} than the hub.")
        if name.endswith(".safetensors"):
            print(f"   sha256 {wanted[:16]}...  {name}: the same at the hub and on {', '.join(NAMES)}")
    print(f"   so are all {len(names)} files")


def _prove_bytes(log: Path, total: int) -> None:
    served = summarize(read_requests(log))
    print(
        f"   the hub's log: {served.total_bytes:,} bytes served for a model of {total:,} "
        f"({served.total_bytes / total:.4f} times), {served.twice_bytes:,} of them twice, in {served.requests} requests"
    )
    if served.total_bytes > 1.01 * total:
        raise SystemExit("The hub served more than 1.01 times the model.")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


def _ensure(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _title(text: str) -> None:
    print(f"\n{text}", flush=True)


if __name__ == "__main__":
    main()
