from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from exo_dl import locations
from exo_dl.errors import StorageError, UsageError
from exo_dl.net.identity import new_secret
from exo_dld.config import Config, load
from exo_dld.settings import SETTINGS, Kind

# For each setting: what is given as text, as TOML, and what becomes of it.
EXAMPLES: dict[str, tuple[str, str, object]] = {
    "state_dir": ("/s/d", '"/s/d"', Path("/s/d")),
    "name": ("anna", '"anna"', "anna"),
    "host": ("10.0.0.1", '"10.0.0.1"', "10.0.0.1"),
    "port": ("7000", "7000", 7000),
    "piece_port": ("7001", "7001", 7001),
    "peers": ("bob:1", '["bob:1"]', ("bob:1",)),
    "cluster_secret_file": ("{secret_file}", '"{secret_file}"', None),
    "mdns": ("no", "false", False),
    "hf_endpoint": ("http://hub:8080/", '"http://hub:8080"', "http://hub:8080"),
    "hf_home": ("/h", '"/h"', Path("/h")),
    "hf_cache": ("/c", '"/c"', Path("/c")),
    "hf_token_file": ("/t", '"/t"', Path("/t")),
    "helper_cache": ("2GiB", '"2GiB"', 2 << 30),
    "memory_budget": ("300MiB", '"300MiB"', 300 << 20),
    "allow_dirs": ("/models,/data", '["/models", "/data"]', ("/models", "/data")),
    "allow_endpoints": ("http://hub:8080/", '["http://hub:8080"]', ("http://hub:8080",)),
    "max_hub_connections": ("2", "2", 2),
    "max_uploads": ("3", "3", 3),
    "hub_limit": ("100Mbit", '"12.5MB/s"', 12_500_000),
    "lan_limit": ("1Gbit/s", '"125MB/s"', 125_000_000),
    "share_gated": ("1", "true", True),
    "socket_group": ("100", "100", 100),
    "log_json": ("1", "true", True),
    "log_level": ("DEBUG", '"debug"', "debug"),
}


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "given-secret"
    path.write_text(new_secret() + "\n")
    return path


def read(*flags: str, **environ: str) -> Config:
    return load(flags, environ=environ)


def test_every_setting_has_an_example() -> None:
    assert {setting.name for setting in SETTINGS} == set(EXAMPLES)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_setting_can_be_given_in_all_three_places(tmp_path: Path, secret_file: Path, setting: object) -> None:
    name, field = setting.name, setting.field  # type: ignore[attr-defined]
    text, toml, value = EXAMPLES[name]
    text, toml = text.replace("{secret_file}", str(secret_file)), toml.replace("{secret_file}", str(secret_file))
    if name == "cluster_secret_file":
        field, value = "cluster_secret", secret_file.read_text().strip()
    file = tmp_path / "config.toml"
    file.write_text(f"{name} = {toml}\n")
    flag = setting.flag  # type: ignore[attr-defined]
    switch = setting.kind is Kind.SWITCH  # type: ignore[attr-defined]
    flags = (flag if value else flag.replace("--", "--no-"),) if switch else (flag, text)
    assert getattr(read(), field) != value
    assert getattr(read("--config", str(file)), field) == value
    assert getattr(read(EXO_DL_CONFIG=str(file)), field) == value
    assert getattr(read(**{setting.variable: text}), field) == value  # type: ignore[attr-defined]
    assert getattr(read(*flags), field) == value


def test_flags_beat_variables_and_those_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('name = "from-file"\nport = 1\npeers = ["a:1"]\n')
    variables = {"EXO_DL_CONFIG": str(file), "EXO_DL_NAME": "from-variable", "EXO_DL_PORT": "2"}
    config = load(["--name", "from-flag"], environ=variables)
    assert (config.name, config.port, config.peers) == ("from-flag", 2, ("a:1",))


def test_defaults(tmp_path: Path) -> None:
    config = read()
    assert config.state_dir == locations.platform_state_dir() == locations.default_state_dir({})
    assert (config.host, config.port, config.port_chosen, config.piece_port, config.mdns) == ("", 52520, False, 0, True)
    assert config.hf_endpoint == "https://huggingface.co"
    assert config.hf_home == Path("~/.cache/huggingface").expanduser()
    assert config.hf_cache == config.hf_home / "hub"
    assert config.cluster_secret is None
    assert config.name
    assert read("--port", "52520").port_chosen


def test_the_settings_file_in_its_usual_place_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "exo-dl").mkdir()
    (tmp_path / "exo-dl" / "config.toml").write_text(f'name = "usual"\nstate_dir = "{tmp_path}/elsewhere"\n')
    if locations.config_path({}) != tmp_path / "exo-dl" / "config.toml":
        pytest.skip("this platform does not look at XDG_CONFIG_HOME")
    assert read().name == "usual"
    # Clients look there too, so that they find the daemon.
    assert locations.default_state_dir({}) == read().state_dir == tmp_path / "elsewhere"
    assert locations.default_state_dir({"EXO_DL_STATE_DIR": "/env"}) == Path("/env")


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("nmae = 'x'", "Did you mean name?"),
        ("port = 70000", "port = 70000"),
        ("port = true", "port = True"),
        ("mdns = 'maybe'", "mdns = 'maybe'"),
        ("peers = 'a:1,b:x'", "b:x"),
        ("peers = [1]", "peers = [1]"),
        ("[name]\nx = 1", "name"),
        ("name = ", "no valid TOML"),
        ("cluster_secret = 'x'", "cluster_secret"),
        ("state_dir = ''", "state_dir"),
        ("hub_limit = 100", "hub_limit = 100"),
        ("lan_limit = 'fast'", "lan_limit: 'fast' is no rate"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, toml: str, named: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(toml)
    with pytest.raises(UsageError) as raised:
        read("--config", str(file))
    assert named in str(raised.value)
    assert str(file) in str(raised.value)


def test_a_file_that_is_asked_for_must_be_there(tmp_path: Path) -> None:
    for arguments, variables in (
        (["--config", f"{tmp_path}/none"], {}),
        ([], {"EXO_DL_CONFIG": f"{tmp_path}/none"}),
    ):
        with pytest.raises(UsageError, match="does not exist"):
            load(arguments, environ=variables)
    with pytest.raises(UsageError, match="cannot be read"):
        read("--config", str(tmp_path))
    (tmp_path / "big.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(UsageError, match="larger"):
        read("--config", f"{tmp_path}/big.toml")


def test_an_unknown_variable_is_named() -> None:
    with pytest.raises(UsageError, match=r"EXO_DL_PEER\b.*\bEXO_DL_PEERS"):
        read(EXO_DL_PEER="a:1")
    assert read(EXO_DL_NAME="", EXO_DL_PEERS="  ", OTHER="x").peers == ()


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--prot", "1"), "--prot"),
        (("--port",), "--port"),
        (("--port", "-1"), "--port"),
        (("--port", "65536"), "--port = '65536'"),
        (("--port", "1_000"), "--port"),
        (("--name", ""), "--name"),
        (("--name", "a,b"), "--name"),
        (("--name", "all"), "--name"),
        (("--name", "x" * 64), "--name"),
        (("--name", "a\x1bb"), "--name"),
        (("--host", "bad host"), "--host"),
        (("--host", "300.1.1.1"), "--host"),
        (("--peer", "a:0"), "--peer"),
        (("--peer", "a:99999"), "--peer"),
        (("--peer", ":1"), "--peer"),
        (("--peer", "[::1]x"), "--peer"),
        (("--hf-endpoint", "ftp://x"), "--hf-endpoint"),
        (("--hf-endpoint", "http://h:99999"), "--hf-endpoint"),
        (("--memory-budget", "1"), "--memory-budget"),
        (("--memory-budget", "lots"), "--memory-budget"),
        (("--max-uploads", "0"), "--max-uploads"),
        (("--log-level", "loud"), "--log-level"),
        (("--state-dir", "a\0b"), "--state-dir"),
        (("--cluster-secret", "x"), "--cluster-secret"),
        (("surplus",), "surplus"),
    ],
)
def test_an_impossible_flag_is_named(flags: tuple[str, ...], named: str) -> None:
    with pytest.raises(UsageError) as raised:
        read(*flags)
    assert named in str(raised.value)


@pytest.mark.parametrize(
    ("given", "peer"),
    [
        ("a", "a:52520"),
        ("a:1", "a:1"),
        ("10.0.0.1:007", "10.0.0.1:7"),
        ("::1", "[::1]:52520"),
        ("[::1]", "[::1]:52520"),
        ("[fe80::1%eth0]:9", "[fe80::1%eth0]:9"),
        ("node_1.lab.local", "node_1.lab.local:52520"),
    ],
)
def test_peers(given: str, peer: str) -> None:
    assert read("--peer", given).peers == (peer,)


def test_peers_come_one_a_flag_or_with_commas_and_count_once() -> None:
    assert read("--peer", "a:1", "--peer", "b:2, a:1").peers == ("a:1", "b:2")
    assert read(EXO_DL_PEERS="a:1,b:2,").peers == ("a:1", "b:2")


@pytest.mark.parametrize(
    ("text", "size"),
    [("64MiB", 64 << 20), ("64M", 64_000_000), ("1g", 10**9), ("2 GiB", 2 << 30), ("50000000", 5 * 10**7)],
)
def test_sizes(text: str, size: int) -> None:
    assert read("--memory-budget", text).memory_budget_bytes == size


def test_listening_on_everything_has_two_names() -> None:
    assert read("--host", "*").host == read("--host", "").host == ""
    assert read("--host", "[::1]").host == "::1"


def test_hugging_face_variables_are_honoured() -> None:
    config = read(HF_HOME="/hf", HF_ENDPOINT="http://mirror/", HF_TOKEN=" hf_secret\n")
    assert (config.hf_home, config.hf_cache, config.hf_endpoint) == (Path("/hf"), Path("/hf/hub"), "http://mirror")
    assert config.current_hf_token() == "hf_secret"
    assert "hf_secret" not in repr(config)
    assert read(HF_HUB_CACHE="/cache", HF_HOME="/hf").hf_cache == Path("/cache")
    assert read(XDG_CACHE_HOME="/xdg").hf_home == Path("/xdg/huggingface")
    assert read("--hf-endpoint", "http://own", HF_ENDPOINT="http://mirror").hf_endpoint == "http://own"
    with pytest.raises(UsageError, match="HF_ENDPOINT"):
        read(HF_ENDPOINT="mirror")


def test_a_home_for_this_daemon_alone_has_its_own_cache() -> None:
    assert read("--hf-home", "/own", HF_HOME="/hf", HF_HUB_CACHE="/shared").hf_cache == Path("/own/hub")


def test_the_token_file_is_read_when_the_token_is_needed(tmp_path: Path) -> None:
    config = read(HF_HOME=str(tmp_path))
    assert config.current_hf_token() is None
    (tmp_path / "token").write_text("hf_fresh\n")
    assert config.current_hf_token() == "hf_fresh"
    (tmp_path / "other").write_text("hf_other")
    assert read(HF_HOME=str(tmp_path), HF_TOKEN_PATH=f"{tmp_path}/other").current_hf_token() == "hf_other"
    assert read("--hf-token-file", f"{tmp_path}/other", HF_TOKEN="hf_env").current_hf_token() == "hf_other"
    (tmp_path / "token").unlink()
    (tmp_path / "token").mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        config.current_hf_token()


def test_a_password_in_the_endpoint_is_not_repeated() -> None:
    with pytest.raises(UsageError) as raised:
        read("--hf-endpoint", "https://me:hunter2@hub/")
    assert "hunter2" not in str(raised.value)


def test_secret_by_variable_or_file(tmp_path: Path, secret_file: Path) -> None:
    filed, direct = secret_file.read_text().strip(), new_secret()
    config = read(EXO_DL_CLUSTER_SECRET=direct)
    assert config.cluster_secret == direct
    assert direct not in repr(config)
    flag = ("--cluster-secret-file", str(secret_file))
    assert read(*flag, EXO_DL_CLUSTER_SECRET=direct).cluster_secret == filed
    toml = tmp_path / "c.toml"
    toml.write_text(f'cluster_secret_file = "{secret_file}"')
    assert read("--config", str(toml)).cluster_secret == filed
    assert read("--config", str(toml), EXO_DL_CLUSTER_SECRET=direct).cluster_secret == direct
    with pytest.raises(UsageError, match="both set"):
        read(EXO_DL_CLUSTER_SECRET=direct, EXO_DL_CLUSTER_SECRET_FILE=str(secret_file))


def test_a_secret_that_is_none_is_refused_without_repeating_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="EXO_DL_CLUSTER_SECRET") as raised:
        read(EXO_DL_CLUSTER_SECRET="correct horse battery staple")
    assert "horse" not in str(raised.value)
    with pytest.raises(UsageError, match="does not exist"):
        read("--cluster-secret-file", f"{tmp_path}/none")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().port = 1  # type: ignore[misc]


def test_reading_settings_touches_nothing(tmp_path: Path) -> None:
    load(["--state-dir", f"{tmp_path}/s", "--hf-home", f"{tmp_path}/h"], environ={})
    assert os.listdir(tmp_path) == []


def test_help_names_every_setting() -> None:
    code = "from exo_dld.config import load; load(['--help'])"
    path = str(Path(__file__).parents[3] / "daemon")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    for setting in SETTINGS:
        assert setting.flag in done.stdout
        assert setting.variable in " ".join(done.stdout.split())
