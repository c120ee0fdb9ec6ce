"""What all tests share: nothing of this user's settings leaks in, and the lab says why where it cannot be made."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

from bench.labnet import unavailable_reason

# Time limits are the test runner's business: a busy machine makes no property false.
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")

# What was started in the background of a shell ignores Ctrl-C, and so would every command that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

_LEAKS = ("EXO_DL_", "HF_", "HUGGING")
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.hookimpl(trylast=True)  # after tests/lab/conftest.py has marked what lies there, and after `-m` has chosen
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips the lab's tests, with the reason, where no network namespaces can be made."""
    lab = [item for item in items if item.get_closest_marker("lab")]
    reason = unavailable_reason() if lab else None
    if reason:
        for item in lab:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True, scope="session")
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No token, endpoint, cache, proxy or daemon of the user who runs the tests."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_LEAKS) or name.upper() in _PROXIES:
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        for kind in ("state", "config", "cache", "data"):
            patch.setenv(f"XDG_{kind.upper()}_HOME", str(home / kind))
        yield
