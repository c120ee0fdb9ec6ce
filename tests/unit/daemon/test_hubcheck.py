"""A list of files that another node offers is held against the hub's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from exo_dl.core.manifest import FileEntry, Manifest
from exo_dl.errors import ExoDlError, HubBusyError, HubError, IntegrityError
from exo_dl.hubs.base import Resolved
from exo_dld.hubcheck import HubCheck, Verdict, Vouched, difference

TRUE = Manifest(
    hub="huggingface",
    repo_type="model",
    repo="org/name",
    commit="a" * 40,
    files=(FileEntry("a.safetensors", 10, b"a" * 32), FileEntry("config.json", 3, b"c" * 20)),
    unselected=(FileEntry("README.md", 5, b"r" * 20),),
)


class Hub:
    """Answers with a list, or with errors first."""

    endpoint = "http://hub"

    def __init__(self, manifest: Manifest = TRUE, errors: Sequence[ExoDlError] = ()) -> None:
        self.manifest = manifest
        self.errors = list(errors)
        self.asked = 0

    def resolve(self, repo: str, revision: str = "", repo_type: str = "", *globs: Sequence[str]) -> Resolved:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return Resolved(self.manifest, revision, self.endpoint, gated=False)


def busy() -> HubBusyError:
    return HubBusyError("busy", retry_after_s=0.01)


def changed(**fields: object) -> Manifest:
    return replace(TRUE, **fields)  # type: ignore[arg-type]


async def checked(
    claimed: Manifest, hub: Hub, others: dict[str, Verdict] | None = None
) -> tuple[HubCheck, list[ExoDlError], Callable[[], list[str]]]:
    check = HubCheck("p", claimed, hub=hub, vouched=Vouched())  # type: ignore[arg-type]
    refused: list[ExoDlError] = []
    check.start(told=lambda: None, refused=refused.append)
    for node, verdict in (others or {}).items():
        check.heard(node, verdict)
    return check, refused, lambda: list(others or {})


@pytest.mark.parametrize(
    ("claimed", "word"),
    [
        (changed(files=(FileEntry("a.safetensors", 10, b"b" * 32), TRUE.files[1])), "a.safetensors"),
        (changed(files=(FileEntry("a.safetensors", 11, b"a" * 32), TRUE.files[1])), "10 bytes"),
        (changed(files=TRUE.files[:1]), "'config.json' is left out"),
        (changed(files=(*TRUE.files, FileEntry("x.py", 1, b"x" * 20))), "no 'x.py'"),
        (changed(unselected=()), "README.md"),
    ],
)
async def test_a_list_that_is_not_the_hubs_is_refused(claimed: Manifest, word: str) -> None:
    check, refused, nodes = await checked(claimed, Hub())
    with pytest.raises(IntegrityError, match="not the hub's"):
        await check.settle(nodes)
    assert word in str(refused[0])
    assert check.verdict is Verdict.DIFFERS


def test_which_files_are_selected_makes_no_difference() -> None:
    assert difference(changed(files=TRUE.files[:1], unselected=(TRUE.unselected[0], TRUE.files[1])), TRUE) == ""
    assert "commit" in difference(changed(commit="b" * 40), TRUE)


async def test_a_busy_hub_is_asked_again_and_once_is_enough_for_a_pull() -> None:
    hub, vouched = Hub(errors=[busy(), busy()]), Vouched()
    for _ in range(2):
        check = HubCheck("p", TRUE, hub=hub, vouched=vouched)  # type: ignore[arg-type]
        check.start(told=lambda: None, refused=lambda _: None)
        assert await check.settle(list) == ""
        assert check.verdict is Verdict.AGREES
        await check.close()
    assert hub.asked == 3


@pytest.mark.parametrize(
    ("others", "passes"),
    [
        ({"b": Verdict.AGREES}, True),
        ({"b": Verdict.AGREES, "c": Verdict.AGREES, "d": Verdict.DIFFERS}, True),
        ({"b": Verdict.AGREES, "c": Verdict.DIFFERS}, False),
        ({"b": Verdict.CANNOT, "c": Verdict.DIFFERS}, False),
        ({"b": Verdict.CANNOT}, True),
    ],
)
async def test_who_cannot_ask_goes_by_those_that_could(others: dict[str, Verdict], passes: bool) -> None:
    check, _, nodes = await checked(TRUE, Hub(errors=[HubError("no way")]), others)
    if passes:
        assert "could not ask the hub" in await check.settle(nodes)
    else:
        with pytest.raises(IntegrityError):
            await check.settle(nodes)
    assert check.verdict is Verdict.CANNOT


def test_what_is_vouched_for_is_bounded() -> None:
    vouched = Vouched()
    for number in range(1000):
        vouched.add(str(number))
    assert "999" in vouched
    assert "0" not in vouched


async def test_the_hub_is_asked_later_or_when_the_answer_is_waited_for() -> None:
    hub = Hub()
    check = HubCheck("p", TRUE, hub=hub, vouched=Vouched())  # type: ignore[arg-type]
    check.start(told=lambda: None, refused=lambda _: None, after_s=3600.0)
    await asyncio.sleep(0)
    assert not hub.asked
    assert await check.settle(list) == ""
    assert hub.asked == 1
    soon = HubCheck("q", TRUE, hub=hub, vouched=Vouched())  # type: ignore[arg-type]
    told = asyncio.Event()
    soon.start(told=told.set, refused=lambda _: None, after_s=0.01)
    async with asyncio.timeout(10):
        await told.wait()
    assert soon.verdict is Verdict.AGREES
