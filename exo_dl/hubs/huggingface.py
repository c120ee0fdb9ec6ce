"""The Hugging Face Hub, and everything that speaks like it (mirrors, caches, a folder behind nginx).

huggingface_hub is imported when it is first needed: it takes longer to load than most commands take to run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin

from exo_dl.core.manifest import MAX_FILES, FileEntry, Manifest
from exo_dl.core.paths import check_commit, check_path, check_repo
from exo_dl.errors import ExoDlError, HubError, NotFoundError, ProtocolError, UsageError
from exo_dl.hubs.answers import error_for_answer, own_digest, parse_length, shown_url
from exo_dl.hubs.base import DEFAULT_REVISION, REPO_TYPES, Resolved, origin_of, same_origin
from exo_dl.hubs.exchange import unreachable
from exo_dl.hubs.session import bounded_session, http_module

__all__ = ["DEFAULT_ENDPOINT", "HuggingFaceHub"]

DEFAULT_ENDPOINT = "https://huggingface.co"

_TIMEOUT_S = 15.0
_MAX_FILE_BYTES = 1 << 50
_MAX_PAGES = 200
_MAX_HEADS = 2000
_MAX_HOPS = 5
_SHA1 = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_AGENT = "exo-dl"


@dataclass
class _File:
    """What is known about a file so far: from the list, from the tree, from a HEAD."""

    size: int | None = None
    oid: str = ""
    sha256: str = ""

    def known(self) -> bool:
        return self.size is not None and bool(self.sha256 or self.oid)

    def entry(self, path: str) -> FileEntry:
        if self.size is None:
            raise HubError(f"The hub does not say how large {path!r} is.")
        return FileEntry(path, self.size, bytes.fromhex(self.sha256 or self.oid), bytes.fromhex(self.oid))


class HuggingFaceHub:
    """A hub that speaks as huggingface.co does.

    Args:
        endpoint: base URL; ``HF_ENDPOINT`` or `DEFAULT_ENDPOINT` when there is none.
        token: the user's token; None for the one that huggingface_hub finds (HF_TOKEN, ``hf auth login``); "" for none.

    Raises:
        UsageError: an endpoint or token that cannot be one.
    """

    def __init__(self, endpoint: str | None = None, token: str | None = None) -> None:
        self._endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).rstrip("/")
        origin_of(self._endpoint)
        if "@" in self._endpoint or "?" in self._endpoint or "#" in self._endpoint:
            raise UsageError(
                f"The endpoint {shown_url(self._endpoint)!r} has more than scheme, host, port and path.",
                hint="Leave out names, passwords and queries.",
            )
        if token and not _TOKEN.fullmatch(token):
            raise UsageError("The hub token has characters that no token has.")
        self._token = token

    @property
    def endpoint(self) -> str:
        """The base URL, without a trailing "/"."""
        return self._endpoint

    def check_access(self, manifest: Manifest) -> None:
        """See `exo_dl.hubs.base.Hub.check_access`."""
        with self._translated(f"{manifest.repo} at {manifest.commit[:12]}", manifest.repo):
            self._read_head(self.file_url(manifest, min(entry.path for entry in manifest.files)), _File())

    def file_url(self, manifest: Manifest, path: str) -> str:
        """Where the bytes of ``path`` at the manifest's commit are read."""
        return self._base_url(manifest.repo_type, manifest.repo, manifest.commit) + quote(path)

    def _base_url(self, repo_type: str, repo: str, commit: str) -> str:
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return f"{self._endpoint}/{prefix}{repo}/resolve/{commit}/"

    def headers_for(self, url: str) -> dict[str, str]:
        """Headers for a request to ``url``, with the token only where it has the hub's own origin."""
        headers = {"User-Agent": _AGENT}
        if same_origin(url, self._endpoint):
            token = _implicit_token() if self._token is None else self._token
            if token:
                headers["Authorization"] = f"Bearer {token}"
        return headers

    def resolve(
        self,
        repo: str,
        revision: str = DEFAULT_REVISION,
        repo_type: str = "model",
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> Resolved:
        """Asks for commit and files: one request, and more only where the answer leaves out sizes or digests.

        Raises:
            UsageError, NotFoundError, AccessError, HubBusyError, HubError: see `exo_dl.hubs.base.Hub.resolve`.
        """
        check_repo(repo)
        _check_revision(revision)
        if repo_type not in REPO_TYPES:
            raise UsageError(f"{repo_type[:40]!r} is no kind of repository.", hint=f"One of {', '.join(REPO_TYPES)}.")
        what = f"{repo} at {revision!r}"
        with self._translated(what, repo):
            from huggingface_hub import HfApi

            bounded_session()
            api = HfApi(self._endpoint, token=False if self._token == "" else self._token, library_name=_AGENT)
            info = api.repo_info(repo, revision=revision, repo_type=repo_type, timeout=_TIMEOUT_S, files_metadata=True)
            commit = _commit(info.sha)
            files = _listed(getattr(info, "siblings", None))
            gated = bool(info.private) or bool(getattr(info, "gated", None))
        if not files:
            raise NotFoundError(f"{what} has no files.")
        if not all(file.known() for file in files.values()):
            with self._translated(what, repo):
                self._read_tree(repo, repo_type, commit, files)
        selected = _selected(files, include, exclude)
        base = self._base_url(repo_type, repo, commit)
        with self._translated(what, repo):
            self._read_heads(base, files)
            if gated:
                # A gated model's list of files is public. Whether its bytes may be read is told by a file only.
                self._read_head(base + quote(min(selected)), _File())
        entries = [file.entry(path) for path, file in sorted(files.items())]
        try:
            manifest = Manifest(
                hub="huggingface",
                repo_type=repo_type,
                repo=repo,
                commit=commit,
                files=tuple(entry for entry in entries if entry.path in selected),
                unselected=tuple(entry for entry in entries if entry.path not in selected),
            )
        except (ProtocolError, UsageError) as error:
            raise HubError(
                f"The hub's list of files of {what} cannot be used. {error.what}",
                hint="Files may be left out with --exclude.",
            ) from error
        return Resolved(manifest, revision, self._endpoint, gated)

    def _read_tree(self, repo: str, repo_type: str, commit: str, files: dict[str, _File]) -> None:
        """Fills in what the list of files left out. Not by HfApi, which follows a Link with the token anywhere."""
        from huggingface_hub import hf_raise_for_status

        session = bounded_session()
        url = f"{self._endpoint}/api/{repo_type}s/{repo}/tree/{commit}?recursive=true&expand=false"
        for _ in range(_MAX_PAGES):
            answer = session.get(url, headers=self.headers_for(url), timeout=_TIMEOUT_S)
            if answer.status_code == 404 and answer.headers.get("X-Error-Code") is None:
                return  # a hub without trees: each file is asked for by itself
            hf_raise_for_status(answer)
            page = answer.json()
            if not isinstance(page, list):
                raise TypeError("the tree is no list")
            for item in page:
                if isinstance(item, dict) and item.get("type") == "file" and item.get("path") in files:
                    lfs = item.get("lfs")
                    _learn(files[item["path"]], item.get("size"), item.get("oid"), lfs.get("oid") if lfs else None)
            link = answer.links.get("next", {}).get("url")
            if link is None:
                return
            url = urljoin(url, str(link))
            if not same_origin(url, self._endpoint):
                raise HubError(f"The hub's list of files goes on at another host: {shown_url(url)}.")
        raise HubError(f"The hub's list of files of {repo} has more than {_MAX_PAGES} pages.")

    def _read_heads(self, base: str, files: dict[str, _File]) -> None:
        """Asks for each file of which size or digest are still unknown."""
        missing = [(path, file) for path, file in files.items() if not file.known()]
        if len(missing) > _MAX_HEADS:
            raise HubError(f"The hub leaves out size or digest of {len(missing)} files, too many to ask one by one.")
        for path, file in missing:
            self._read_head(base + quote(path), file)
            if not file.known():
                raise HubError(
                    f"The hub gives no size or no digest for {path!r}, so its bytes could not be checked.",
                    hint="Use the hub itself, or a mirror that keeps its ETags.",
                )

    def _read_head(self, url: str, file: _File) -> None:
        """As huggingface_hub's get_hf_file_metadata, which would take a mirror's token along to huggingface.co."""
        from huggingface_hub import hf_raise_for_status

        session = bounded_session()
        for _ in range(_MAX_HOPS):
            headers = {**self.headers_for(url), "Accept-Encoding": "identity"}
            answer = session.head(url, headers=headers, timeout=_TIMEOUT_S, follow_redirects=False)
            hf_raise_for_status(answer)
            size = answer.headers.get("X-Linked-Size")
            if size is None and answer.status_code == 200:
                size = answer.headers.get("Content-Length")
            digest = own_digest(answer.headers)
            is_sha256 = len(digest) == 64
            _learn(file, parse_length(size), None if is_sha256 else digest or None, digest if is_sha256 else None)
            location = answer.headers.get("Location")
            if file.known() or not location or not same_origin(url := urljoin(url, location), self._endpoint):
                return

    @contextmanager
    def _translated(self, what: str, repo: str) -> Iterator[None]:
        """Turns what huggingface_hub raises into the errors of exo-dl."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

        http_error: type[Exception] = http_module().HTTPError
        try:
            yield
        except ExoDlError:
            raise
        except OfflineModeIsEnabled as error:
            raise HubError("HF_HUB_OFFLINE is set, so no hub is asked.", hint="Unset it for the daemon.") from error
        except HFValidationError as error:
            raise UsageError(f"{what} is no name that a hub allows: {error}") from error
        except HfHubHTTPError as error:
            with_token = "Authorization" in self.headers_for(self._endpoint)
            page = f"{self._endpoint}/{repo}"
            status, headers = error.response.status_code, error.response.headers
            raise error_for_answer(status, headers, what, with_token=with_token, page=page) from error
        except http_error as error:
            raise unreachable(self._endpoint, _root_of(error)) from error
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise HubError(
                f"The hub's answer about {what} cannot be understood ({type(error).__name__}: {str(error)[:200]}).",
                hint="Check HF_ENDPOINT: it must be a Hugging Face hub or a mirror of one.",
            ) from error


def _implicit_token() -> str | None:
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return token if token and _TOKEN.fullmatch(token) else None


def _root_of(error: Exception) -> Exception:
    """The socket's own error under those of the HTTP client; it tells best what happened."""
    at: BaseException | None = error
    while at is not None:
        if isinstance(at, OSError):
            return at
        at = at.__cause__ or at.__context__
    return TimeoutError() if "Timeout" in type(error).__name__ else error


def _check_revision(revision: str) -> None:
    try:
        check_path(revision)
    except UsageError:
        raise UsageError(
            f"{revision[:200]!r} is no revision.", hint="Name a branch, a tag or a commit, as in org/name@main."
        ) from None


def _commit(sha: object) -> str:
    try:
        return check_commit(sha if isinstance(sha, str) else "")
    except UsageError:
        raise HubError(f"The hub names no commit, but {str(sha)[:80]!r}.") from None


def _listed(siblings: Any) -> dict[str, _File]:
    """The files in an answer of the hub, of which nothing is believed before it was looked at."""
    if siblings is None:
        return {}
    if len(siblings) > MAX_FILES:
        raise HubError(f"The hub lists {len(siblings)} files; more than {MAX_FILES} are not handled.")
    files: dict[str, _File] = {}
    for sibling in siblings:
        path = sibling.rfilename
        if not isinstance(path, str):
            raise TypeError("a file name is no text")
        if path in files:
            raise HubError(f"The hub lists {path[:200]!r} twice.")
        lfs = sibling.lfs
        files[path] = file = _File()
        _learn(file, sibling.size, sibling.blob_id, lfs.sha256 if lfs else None)
        if lfs and file.size is not None and lfs.size != file.size:
            raise HubError(f"The hub says two sizes of {path[:200]!r}: {file.size} and {str(lfs.size)[:40]}.")
    return files


def _learn(file: _File, size: object, oid: object, sha256: object) -> None:
    """Adds what an answer says, where nothing was known yet.

    Raises:
        TypeError, ValueError: something else than a size or a digest.
    """
    if size is not None and file.size is None:
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError("a size is no number")
        if not 0 <= size <= _MAX_FILE_BYTES:
            raise ValueError(f"a size of {str(size)[:40]} bytes")
        file.size = size
    if oid is not None and not file.oid:
        if not isinstance(oid, str) or not _SHA1.fullmatch(oid):
            raise ValueError("an object id is no sha1")
        file.oid = oid
    if sha256 is not None and not file.sha256:
        if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
            raise ValueError("an LFS object id is no sha256")
        file.sha256 = sha256


def _selected(files: dict[str, _File], include: Sequence[str], exclude: Sequence[str]) -> set[str]:
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]  # exported lazily

    selected = set(
        filter_repo_objects(list(files), allow_patterns=list(include) or None, ignore_patterns=list(exclude) or None)
    )
    if not selected:
        globs = [f"--include {glob!r}" for glob in include] + [f"--exclude {glob!r}" for glob in exclude]
        some = ", ".join(sorted(files)[:5])
        raise UsageError(
            f"No file is left with {' '.join(globs)[:300]}.", hint=f"The model has {len(files)} files, as {some}."
        )
    return selected
