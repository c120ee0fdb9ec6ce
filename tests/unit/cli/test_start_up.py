"""What each way of starting the command may import: its speed depends on that, and it holds on a busy machine too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from exo_dl.cli.app import cli

_PROBE = """
import sys
sys.argv[1:] = {arguments!r}
from exo_dl.cli.app import run
code = run()
heavy = {{"grpc", "rich", "asyncio", "google.protobuf", "cryptography", "zeroconf"}}
print(code, *sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


def loaded(*arguments: str) -> tuple[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(arguments=list(arguments))], capture_output=True, text=True, check=True
    )
    code, *modules = done.stderr.splitlines()[-1].split()
    return code, modules


@pytest.mark.parametrize("command", ["", *sorted(cli.commands)])
def test_help_loads_only_click(command: str) -> None:
    if command == "up":
        return  # its help is the daemon's
    assert loaded(*command.split(), "--help") == ("0", [])


def test_pull_without_a_terminal_loads_no_rich(tmp_path: object) -> None:
    code, modules = loaded("pull", "org/model", "--state-dir", str(tmp_path))
    assert code == "6"
    assert modules == ["asyncio", "google.protobuf", "grpc"]


def test_a_plain_pull_waits_for_no_module_that_only_reads_answers(tmp_path: object) -> None:
    probe = _PROBE.replace("heavy = {{", 'heavy = {{"exo_dl.types", ')
    done = subprocess.run(
        [sys.executable, "-c", probe.format(arguments=["pull", "org/model", "--json", "--state-dir", str(tmp_path)])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines()[-1].split() == ["6", "asyncio", "google.protobuf", "grpc"]


def test_help_names_every_exit_code() -> None:
    from exo_dl import errors

    done = subprocess.run([sys.executable, "-m", "exo_dl.cli", "--help"], capture_output=True, text=True, check=True)
    codes = {getattr(errors, name).exit_code for name in errors.__all__ if name.endswith("Error")}
    shown = {int(line.split()[0]) for line in done.stdout.splitlines() if line.strip()[:1].isdigit()}
    assert shown == codes | {0, 130}


def test_every_command_takes_json_and_state_dir() -> None:
    for name, command in cli.commands.items():
        if name in ("up", "cluster"):
            continue
        names = {parameter.name for parameter in command.params}
        assert {"as_json", "state_dir"} <= names, name
