"""What is installed and started: the wheel, the locks, the units, the containers."""

from __future__ import annotations

import importlib
import plistlib
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("runtime", "build", "dev", "weights", "audit")
_MADE_HERE = {".git", ".venv", ".venv-audit", "build", "dist", "demo-data", "results", "__pycache__"}
# Written in halves, so that this file itself passes.
_REGISTRIES = ("pypi" + ".org", "pythonhosted" + ".org", "registry" + ".npmjs", "deb" + ".debian.org", "crates" + ".io")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def sources() -> Iterator[Path]:
    for path in ROOT.rglob("*"):
        parts = path.relative_to(ROOT).parts
        if path.is_file() and not any(part in _MADE_HERE or part.endswith(("_cache", ".hypothesis")) for part in parts):
            yield path


def lock(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_hashes_and_no_place_to_get_them_from(name: str) -> None:
    text = lock(name)
    assert "://" not in text
    assert not re.search(r"(?m)^\s*-(?!-hash=sha256:)", text), "an option beside the hashes"
    for entry in re.split(r"(?m)^(?=[A-Za-z0-9])", re.sub(r"(?m)^\s*#.*\n", "", text)):
        assert not entry.strip() or re.match(r"[A-Za-z0-9._-]+==\S+( ;[^\\]*)? \\\n\s+--hash=sha256:", entry), entry


def test_locks_agree_with_each_other() -> None:
    pins = {name: dict(re.findall(r"(?m)^([A-Za-z0-9._-]+)==(\S+)", lock(name))) for name in LOCKS}
    for name in ("runtime", "build"):
        assert pins[name].items() <= pins["dev"].items(), f"{name}.txt and dev.txt differ: run `make lock`"


def test_no_file_names_a_registry() -> None:
    found = []
    for path in sources():
        text = path.read_bytes()
        found += [f"{path.relative_to(ROOT)}: {host}" for host in _REGISTRIES if host.encode() in text]
    assert not found


def test_lower_bounds_are_those_of_the_generated_code(project: dict[str, Any]) -> None:
    bounds = dict(re.fullmatch(r"(\S+?)>=(\S+)", entry).groups() for entry in project["dependencies"])  # type: ignore[union-attr]
    messages = (ROOT / "exo_dl/rpc/v1/pull_pb2.py").read_text(encoding="utf-8")
    services = (ROOT / "exo_dl/rpc/v1/pull_pb2_grpc.py").read_text(encoding="utf-8")
    made_by = re.search(r"Protobuf Python Version: (\S+)", messages)
    assert made_by and bounds["protobuf"] == made_by[1]
    made_by = re.search(r"GRPC_GENERATED_VERSION = '(\S+)'", services)
    assert made_by
    for name in ("grpcio", "grpcio-health-checking", "grpcio-reflection"):
        assert bounds[name] == made_by[1]


def test_commands_exist(project: dict[str, Any]) -> None:
    assert set(project["scripts"]) == {"exo-dl", "exo-dld"}
    for target in project["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))


def test_the_wheel_has_both_packages_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"exo_dl-{version('exo-dl')}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("exo_dl/py.typed", "exo_dl/rpc/v1/pull_pb2.pyi", "exo_dld/app.py", "exo_dld/py.typed"):
        assert name in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"exo_dl", "exo_dld"}


def test_the_launch_agent_is_well_formed() -> None:
    with (ROOT / "daemon/launchd/exo-dl.exo-dld.plist").open("rb") as file:
        agent = plistlib.load(file)
    assert agent["Label"] == "exo-dl.exo-dld"
    assert agent["ProgramArguments"][-1].startswith("exec ")


def test_compose_has_three_daemons_and_a_hub() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    assert services.keys() == {"hub", "n1", "n2", "n3"}
    for name in ("n1", "n2", "n3"):
        assert services[name]["environment"]["EXO_DL_NAME"] == name
        assert services[name]["depends_on"] == {"hub": {"condition": "service_healthy"}}
    for script in re.findall(r"/src/(bench/\S+\.py)", str(services["hub"]["command"])):
        assert (ROOT / script).is_file()


def test_copied_files_are_in_the_build_context() -> None:
    """Each source of a COPY in the Dockerfile exists and .dockerignore lets it through."""
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"}
    for line in re.findall(r"(?m)^COPY (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8")):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.split("/")[0] in allowed, source
