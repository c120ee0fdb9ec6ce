"""What is read of the machine's memory, and what the daemon makes of it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from exo_dld.config import load
from exo_dld.memory import available_bytes, budget_bytes, reserve_bytes

MIB = 1 << 20


def a_group(at: Path, *, limit: str, used: int, cached: int) -> Path:
    (at / "memory.max").write_text(f"{limit}\n")
    (at / "memory.current").write_text(f"{used}\n")
    (at / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\nactive_file 7\n")
    return at


def test_available_memory_is_what_the_container_leaves(tmp_path: Path) -> None:
    machine = available_bytes(tmp_path)  # no such group
    assert machine > 0
    (tmp_path / "memory.current").write_text(f"{90 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {20 * MIB}\nactive_file 7\n")
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    assert available_bytes(tmp_path) == 30 * MIB
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 30 * MIB


def test_the_reserve_is_a_twentieth_within_bounds() -> None:
    assert [reserve_bytes(gib << 30) >> 20 for gib in (1, 8, 64)] == [128, 409, 1024]


@pytest.mark.parametrize(
    ("available_mib", "budget_mib"),
    [(0, 64), (512, 64), (1024, 64), (2048, 128), (3000, 187), (4096, 256), (12 << 10, 256), (512 << 10, 256)],
)
def test_the_budget_is_a_sixteenth_of_what_is_available_within_bounds(available_mib: int, budget_mib: int) -> None:
    assert budget_bytes(lambda: available_mib * MIB) // MIB == budget_mib


def test_the_budget_follows_the_limit_of_the_container(tmp_path: Path) -> None:
    """The machine may have far more: this process cannot get it."""
    group = a_group(tmp_path, limit=str(1600 * MIB), used=200 * MIB, cached=40 * MIB)
    assert budget_bytes(lambda: available_bytes(group)) == 90 * MIB


@pytest.mark.parametrize("text", ["", "nonsense", "-"])
def test_a_limit_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    group = a_group(tmp_path, limit=text, used=0, cached=0)
    assert available_bytes(group) > 0


def test_where_nothing_can_be_read_the_budget_is_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", unreadable)
    assert load([], environ={}).memory_budget_bytes == 64 * MIB
    assert load(["--memory-budget", "96MiB"], environ={}).memory_budget_bytes == 96 * MIB
