"""Generates exo_dl/rpc/v1 from the .proto files beside this one, or with --check says whether it is up to date."""

from __future__ import annotations

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

__all__ = ["generate", "main", "stale"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("exo_dl/rpc/v1")


def generate(target: Path) -> None:
    """Writes the generated modules (messages, their type stubs, services) under ``target``/exo_dl/rpc/v1."""
    sources = sorted(str(path.relative_to(ROOT / "proto")) for path in (ROOT / "proto" / PACKAGE).glob("*.proto"))
    arguments = [
        "protoc",
        f"--proto_path={ROOT / 'proto'}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--python_out={target}",
        f"--pyi_out={target}",
        f"--grpc_python_out={target}",
        *sources,
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc refused the .proto files; what it says stands above.")


def stale(target: Path) -> list[str]:
    """Names of the generated modules in the repository that are not what ``target`` holds, sorted."""
    made = {path.name: path.read_bytes() for path in (target / PACKAGE).glob("*_pb2*")}
    kept = {path.name: path.read_bytes() for path in (ROOT / PACKAGE).glob("*_pb2*.py*")}
    return sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))


def main() -> None:
    """Command line."""
    if sys.argv[1:] not in ([], ["--check"]):
        raise SystemExit("usage: python proto/generate.py [--check]")
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        changed = stale(Path(scratch))
        if sys.argv[1:] == ["--check"]:
            if changed:
                raise SystemExit(f"Not what proto/ generates: {', '.join(changed)}. Run `make proto`.")
            print("The generated code is up to date.")
            return
        for name in changed:
            source = Path(scratch) / PACKAGE / name
            if source.exists():
                (ROOT / PACKAGE / name).write_bytes(source.read_bytes())
            else:
                (ROOT / PACKAGE / name).unlink()
            print(f"{'written' if source.exists() else 'removed'}: {PACKAGE / name}")


if __name__ == "__main__":
    main()
