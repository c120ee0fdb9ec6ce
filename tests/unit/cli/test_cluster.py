from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from exo_dl import errors, secretfile
from exo_dl.net.identity import new_secret, parse_secret
from tests.unit.cli.test_commands import exo_dl
from tests.unit.client.fake_daemon import FakeDaemon


async def test_new_secret_is_printed_and_stored_nowhere(tmp_path: Path) -> None:
    done = await exo_dl("cluster", "new-secret", state_dir=tmp_path)
    assert parse_secret(done.out)
    done = await exo_dl("cluster", "new-secret", "--json", state_dir=tmp_path)
    assert parse_secret(done.documents[0]["secret"])
    assert os.listdir(tmp_path) == []


async def test_join_then_show(tmp_path: Path) -> None:
    secret = new_secret()
    done = await exo_dl("cluster", "show", state_dir=tmp_path / "state")
    assert done.code == 3
    done = await exo_dl("cluster", "join", secret, state_dir=tmp_path / "state")
    assert done.code == 0, done.err
    path = tmp_path / "state" / "secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["secret"]
    done = await exo_dl("cluster", "show", state_dir=tmp_path / "state")
    assert (done.code, done.out) == (0, f"{secret}\n")
    done = await exo_dl("cluster", "join", secret.upper(), "--json", state_dir=tmp_path / "state")
    assert json.loads(done.out)["changed"] is False


async def test_join_reads_the_secret_from_standard_input(tmp_path: Path) -> None:
    secret = new_secret()
    done = await exo_dl("cluster", "join", state_dir=tmp_path, send=f"{secret}\n")
    assert done.code == 0, done.err
    assert secretfile.read_secret(tmp_path) == secret


async def test_join_refuses_what_is_no_secret(tmp_path: Path) -> None:
    done = await exo_dl("cluster", "join", "my own words", state_dir=tmp_path / "state")
    assert done.code == 2
    assert "own words" not in done.err
    assert not (tmp_path / "state").exists()


async def test_join_while_a_daemon_runs(tmp_path: Path) -> None:
    state_dir, secret = tmp_path / "state", new_secret()
    secretfile.write_secret(state_dir, secret)
    async with FakeDaemon(state_dir) as daemon:
        other = new_secret()
        done = await exo_dl("cluster", "join", other, state_dir=state_dir)
        assert done.code == 0, done.err
        assert "belongs to that cluster now" in done.out
        assert [request.secret for request in daemon.requests] == [other]
    assert secretfile.read_secret(state_dir) == secret, "the daemon stores it, not the command"
    done = await exo_dl("cluster", "join", secret, state_dir=state_dir)
    assert (done.code, done.out) == (0, "This node already has that secret.\n")
    done = await exo_dl("cluster", "join", new_secret(), state_dir=state_dir)
    assert done.code == 0
    assert secretfile.read_secret(state_dir) != secret


def test_first_start_makes_a_secret_and_later_ones_keep_it(tmp_path: Path) -> None:
    secret, created = secretfile.load_or_create_secret(tmp_path / "a" / "b")
    assert created
    assert secretfile.load_or_create_secret(tmp_path / "a" / "b") == (secret, False)
    assert stat.S_IMODE((tmp_path / "a" / "b" / "secret").stat().st_mode) == 0o600


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secretfile.write_secret(tmp_path, new_secret())
    path = secretfile.secret_path(tmp_path)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(errors.StorageError, match="open to other users") as raised:
            secretfile.read_secret(tmp_path)
        assert raised.value.hint == f"Run: chmod 600 {path}"
    path.chmod(0o644)
    assert secretfile.read_secret_file(path)
    path.chmod(0o664)
    with pytest.raises(errors.StorageError, match="open to other users"):
        secretfile.read_secret_file(path)


@pytest.mark.parametrize("content", [b"", b"hunter2", b"x" * 5000, b"\xff\xfe"])
def test_a_file_that_holds_no_secret(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(errors.UsageError, match="holds no cluster secret") as raised:
        secretfile.load_or_create_secret(tmp_path)
    assert "hunter2" not in str(raised.value)
    assert path.read_bytes() == content


def test_files_that_are_not_there_or_no_files(tmp_path: Path) -> None:
    with pytest.raises(errors.UsageError, match="does not exist"):
        secretfile.read_secret_file(tmp_path / "none")
    with pytest.raises(errors.StorageError):
        secretfile.read_secret_file(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(errors.StorageError, match="cannot be stored"):
        secretfile.write_secret(tmp_path / "file" / "x", new_secret())


async def test_init_makes_a_cluster_once(tmp_path: Path) -> None:
    first = await exo_dl("cluster", "init", "--json", state_dir=tmp_path)
    again = await exo_dl("cluster", "init", "--json", state_dir=tmp_path)
    assert first.documents[0]["created"] is True
    assert again.documents[0] == first.documents[0] | {"created": False}
    assert secretfile.read_secret(tmp_path) == first.documents[0]["secret"]
    done = await exo_dl("cluster", "init", state_dir=tmp_path)
    assert "exo-dl cluster join SECRET" in done.err


async def test_rotate_without_a_daemon(tmp_path: Path) -> None:
    secretfile.write_secret(tmp_path, before := new_secret())
    done = await exo_dl("cluster", "rotate", "--json", state_dir=tmp_path)
    assert done.code == 0, done.err
    after = secretfile.read_secret(tmp_path)
    assert done.documents[0]["secret"] == after != before
    done = await exo_dl("cluster", "rotate", "--without", "bob", state_dir=tmp_path)
    assert done.code == 2
    assert secretfile.read_secret(tmp_path) == after


def test_where_a_secret_is_found(tmp_path: Path) -> None:
    state, credentials = tmp_path / "state", tmp_path / "credentials"
    credentials.mkdir()
    texts = [new_secret() for _ in range(4)]
    secretfile.write_secret(state, texts[0])
    (credentials / "cluster-secret").write_text(texts[1])
    (tmp_path / "file").write_text(texts[2])
    environ = {"EXO_DL_CONFIG": str(tmp_path / "none.toml")}
    for number, addition in enumerate(
        (
            {},
            {"CREDENTIALS_DIRECTORY": str(credentials)},
            {secretfile.FILE_VARIABLE: str(tmp_path / "file")},
            {secretfile.VARIABLE: texts[3]},
        )
    ):
        environ |= addition
        found = secretfile.find_secret(state, environ)
        assert found is not None
        assert found.text == texts[number]
        assert (found.source == "") == (number == 0)
        assert texts[number] not in repr(found)


async def test_commands_of_this_machine_refuse_connect(tmp_path: Path) -> None:
    for words in (["cluster", "init"], ["cluster", "show"], ["cluster", "rotate"], ["leave"], ["up"]):
        done = await exo_dl("--connect", "127.0.0.1:9", *words, state_dir=tmp_path)
        assert done.code == 2, done.err
        assert "the machine that it runs on" in done.err
    assert not os.listdir(tmp_path)


async def test_a_ticket_on_the_command_line_is_refused_and_not_repeated(tmp_path: Path) -> None:
    text = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"
    done = await exo_dl("--connect", "127.0.0.1:9", "--ticket", text, "peers", state_dir=tmp_path)
    assert done.code == 2
    assert "secret\n" not in done.err
    done = await exo_dl("--ticket", str(tmp_path / "none"), "peers", state_dir=tmp_path)
    assert (done.code, "--connect" in done.err) == (2, True)
