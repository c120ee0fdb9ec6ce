from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator

import pytest

from exo_dl.net.identity import new_secret
from exo_dld.logs import setup_logging


@pytest.fixture
def logged() -> Iterator[Callable[..., io.StringIO]]:
    """Sets logging up on a text stream, and everything back at the end."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions

    def start(**options: object) -> io.StringIO:
        stream = io.StringIO()
        setup_logging(stream=stream, **options)  # type: ignore[arg-type]
        return stream

    yield start
    logging.captureWarnings(False)
    root.handlers[:], root.level, logging.raiseExceptions = before


def test_a_readable_line(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()
    log = logging.getLogger("exo_dld.pulls")
    log.info("pull %s of %s is done", "abc", "org/m", extra={"fields": {"bytes": 5, "rate": 1.5e6, "why": "a b"}})
    log.debug("not shown")
    moment, line = stream.getvalue()[:23], stream.getvalue()[23:]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", moment)
    assert line == ' info  [pulls] pull abc of org/m is done bytes=5 rate=1.5e+06 why="a b"\n'


def test_a_json_line(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(as_json=True, level="debug")
    log = logging.getLogger("exo_dld.pulls")
    log.debug("text é\n", extra={"fields": {"bytes": 5, "text": "not over the text", "peers": ("a", "b"), "o": object}})
    document = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert document["text"] == "text é\n"
    assert (document["level"], document["source"], document["bytes"]) == ("debug", "exo_dld.pulls", 5)
    assert document["peers"] == ["a", "b"]
    assert document["time"] > 1e9


@pytest.mark.parametrize("as_json", [False, True])
def test_an_exception_stays_on_one_line(logged: Callable[..., io.StringIO], as_json: bool) -> None:
    stream = logged(as_json=as_json)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: two" in stream.getvalue()
    assert "test_logs.py" in stream.getvalue()


def test_a_peer_cannot_forge_a_line_or_steer_the_terminal(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()
    logging.getLogger("x").info("%s is up", "bob\n2026-01-01 ERROR [x] forged \x1b[2J\r\u202e\u2028")
    assert stream.getvalue().count("\n") == 1
    assert stream.getvalue().rstrip("\n").isprintable()
    assert "\\n2026" in stream.getvalue()


SECRET = new_secret()


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("Bearer abcdef.ghi-jkl", "abcdef.ghi-jkl"),
        ("token hf_AbCdEfGhIjKlMn is bad", "hf_AbCdEfGhIjKlMn"),
        pytest.param(f"secret {SECRET}", SECRET, id="a cluster's secret"),
        pytest.param(f"secret {SECRET.upper()}", SECRET.upper(), id="the same in capitals"),
        ("https://cdn/x?a=1&X-Amz-Signature=abc123&b=2", "abc123"),
        ("https://cdn/x?Policy=eyJ&Signature=s~s&Key-Pair-Id=K2", "s~s"),
        ("https://me:hunter2@hub/x", "hunter2"),
        ("my very own pass phrase", "my very own pass phrase"),
    ],
)
def test_secrets_are_hidden(logged: Callable[..., io.StringIO], as_json: bool, text: str, secret: str) -> None:
    stream = logged(as_json=as_json, secrets=["my very own pass phrase", ""])
    log = logging.getLogger("x")
    log.info("about %s", text, extra={"fields": {"again": text, "deep": [{"er": text}]}})
    try:
        raise ValueError(text)
    except ValueError:
        log.exception("failed")
    assert secret not in stream.getvalue()
    assert stream.getvalue().count("[hidden]") >= 4


def test_what_is_no_secret_stays(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()
    text = "exo-dl daemon, half_of it, https://hub:8080/org/name?rev=main, token of bob"
    logging.getLogger("x").info(text)
    assert text in stream.getvalue()


def test_libraries_are_heard_only_when_something_is_wrong(logged: Callable[..., io.StringIO]) -> None:
    stream = logged(level="debug")
    logging.getLogger("asyncio").debug("selector")
    logging.getLogger("zeroconf").warning("no route")
    assert "selector" not in stream.getvalue()
    assert "warn  [zeroconf] no route" in stream.getvalue()


def test_warnings_of_python_are_events(logged: Callable[..., io.StringIO]) -> None:
    stream = logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old\nthing", stacklevel=1)
    assert "[warnings]" in stream.getvalue()
    assert stream.getvalue().count("\n") == 1


def test_setting_up_twice_logs_once(logged: Callable[..., io.StringIO]) -> None:
    logged()
    stream = logged()
    logging.getLogger("x").info("once")
    assert stream.getvalue().count("once") == 1
