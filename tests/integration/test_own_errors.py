"""An error of the daemon itself: the log tells its story, and the pull goes on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from bench.cluster import Node
from bench.hub import LocalHub
from exo_dl.net.identity import new_secret

CLUMSY = Path(__file__).with_name("clumsy_daemon.py")


def clumsily(argv: Sequence[str]) -> list[str]:
    """The command, with the clumsy daemon in place of a daemon."""
    return [argv[0], str(CLUMSY), *argv[3:]] if list(argv[1:3]) == ["-m", "exo_dld"] else list(argv)


def test_an_end_that_is_told_twice_is_logged_with_its_story_and_the_pull_ends_well(
    hub: LocalHub, repo: str, tmp_path: Path
) -> None:
    node = Node("clumsy", tmp_path / "clumsy", secret=new_secret(), endpoint=hub.url, wrap=clumsily)
    try:
        node.start()
        node.wait_ready()
        assert node.json("pull", repo)[-1]["state"] == "done"
    finally:
        node.stop()
    lines = [json.loads(line) for line in node.log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    told = [line["text"] for line in lines if line["level"].lower() == "error"]
    assert 2 <= len(told) <= 20, "one for each of a few transfers"
    for text in told:
        said = re.search(r"Transfer (\d+) ended \(\w+\) and is not under way\. Story: (.*)", text, re.DOTALL)
        assert said is not None, text
        assert f"FetchFromHub(fetch_id={said[1]}," in said[2]
        assert said[2].count(f"FetchEnded(fetch_id={said[1]},") == 2
