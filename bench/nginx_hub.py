"""The same models behind nginx: a configuration and static JSON that the clients of a Hugging Face hub take for one.

python bench/nginx_hub.py --root WORK --model-root DIR --port 8080 && nginx -c WORK/nginx.conf
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.repos import REVISIONS, DigestCache, Repo, scan_root

__all__ = ["write_config"]

_CONFIG = """\
daemon {daemon};
worker_processes {workers};
{user}
pid "{root}/nginx.pid";
error_log "{root}/error.log" warn;

events {{ worker_connections 1000; }}

http {{
  types {{ application/json json; }}
  default_type application/octet-stream;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  server_tokens off;
  keepalive_timeout 75;
  keepalive_requests 1000000;
  client_body_temp_path "{root}/temp/body";
  proxy_temp_path "{root}/temp/proxy";
  fastcgi_temp_path "{root}/temp/fastcgi";
  uwsgi_temp_path "{root}/temp/uwsgi";
  scgi_temp_path "{root}/temp/scgi";
  map_hash_max_size 131072;
  map_hash_bucket_size 2048;

  log_format hub escape=json '{{"time":$msec,"client":"$remote_addr","method":"$request_method","path":"$request_uri",'
    '"range":"$http_range","status":$status,"bytes":$body_bytes_sent,"bytes_sent":$bytes_sent,'
    '"seconds":$request_time,"agent":"$http_user_agent"}}';
  access_log "{log}" hub;

  # Digests as a hub has them: sha256 for large files, git sha1 for the others. By URI, as try_files leaves it.
  map $uri $hub_etag {{
    default "";
{etags}
  }}

  server {{
    listen {listen}{options};
    etag off;
    absolute_redirect off;

{locations}
    location /api/ {{
      root "{root}";
      default_type application/json;
      try_files $uri $uri/index.json @no_repo;
    }}
    location / {{ try_files "" @no_repo; }}
    location @no_repo {{
      add_header X-Error-Code RepoNotFound always;
      add_header X-Error-Message "Repository not found" always;
      return 404;
    }}
    location @no_revision {{
      add_header X-Error-Code RevisionNotFound always;
      add_header X-Error-Message "Invalid rev id" always;
      return 404;
    }}
  }}
}}
"""

_REPO = """\
    location ~ "^/{pattern}/resolve/(?:{revisions})/(?<hub_file>.+)$" {{
      root "{models}";
      add_header ETag '"$hub_etag"';
      add_header X-Repo-Commit {commit} always;
      try_files "/{name}/$hub_file" @no_entry_{number};
    }}
    location @no_entry_{number} {{
      add_header X-Repo-Commit {commit} always;
      add_header X-Error-Code EntryNotFound always;
      add_header X-Error-Message "Entry not found" always;
      return 404;
    }}
    location ~ "^/{pattern}/resolve/" {{ try_files "" @no_revision; }}
    location ~ "^/api/models/{pattern}/(?:revision|tree)/" {{
      root "{root}";
      default_type application/json;
      try_files $uri @no_revision;
    }}
"""


def write_config(
    root: Path,
    model_root: Path,
    *,
    port: int,
    listen: str = "0.0.0.0",  # noqa: S104  the lab's nodes reach it over their own links
    log: Path | None = None,
    workers: int = 1,
    daemon: bool = False,
    send_buffer_bytes: int | None = None,
) -> Path:
    """Writes all that nginx needs under ``root``; start it with ``nginx -c <the returned path>``.

    Works as root, as a user, and as root of a user namespace. Process id, log and temporary files stay in ``root``.

    Args:
        root: working folder, made if it is not there; nginx's prefix.
        model_root: the folder with ``<org>/<name>/`` folders (models only), as `bench.hub` serves it.
        port: to listen on.
        listen: address to listen on, IPv4 or IPv6.
        log: access log, one JSON object a line; ``<root>/access.log`` by default.
        workers: processes that serve.
        daemon: nginx puts itself into the background; otherwise it stays with the process that starts it.
        send_buffer_bytes: fixes the sockets' send buffers, and with them how far the log runs ahead of the client.

    Returns:
        The path of ``nginx.conf``.
    """
    root, model_root = root.resolve(), model_root.resolve()
    log = log.resolve() if log is not None else root / "access.log"
    for folder in ("temp", "api/models"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    repos = [repo for (kind, _), repo in scan_root(model_root, DigestCache(model_root)).items() if kind == "model"]
    for repo in repos:
        _write_api(root / "api" / "models" / repo.repo, repo)
    address = f"[{listen}]" if ":" in listen else listen
    config = _CONFIG.format(
        daemon="on" if daemon else "off",
        workers=workers,
        # Workers that are to read the caller's folders: without this line, root's would run as nobody.
        user=f"user {pwd.getpwuid(0).pw_name} root;" if os.geteuid() == 0 else "",
        root=root,
        log=log,
        etags="\n".join(_etag_lines(repos)),
        listen=f"{address}:{port}",
        options=f" sndbuf={send_buffer_bytes}" if send_buffer_bytes else "",
        locations="".join(_locations(root, model_root, repos)),
    )
    path = root / "nginx.conf"
    path.write_text(config, encoding="utf-8")
    return path


def _locations(root: Path, model_root: Path, repos: list[Repo]) -> Iterable[str]:
    for number, repo in enumerate(repos):
        yield _REPO.format(
            name=repo.repo,
            pattern=re.escape(repo.repo),
            revisions="|".join(re.escape(name) for name in (*REVISIONS, repo.commit)),
            models=model_root,
            root=root,
            commit=repo.commit,
            number=number,
        )


def _etag_lines(repos: list[Repo]) -> Iterable[str]:
    seen: set[str] = set()
    for repo in repos:
        for file in repo.files.values():
            key = f"/{repo.repo}/{file.path}"
            if key.lower() in seen or "$" in key:
                raise ValueError(f"nginx cannot tell {key!r} from another file")
            seen.add(key.lower())
            escaped = key.replace("\\", "\\\\").replace('"', '\\"')
            yield f'    "{escaped}" {file.etag};'


def _write_api(folder: Path, repo: Repo) -> None:
    for name in ("revision", "tree"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    info = json.dumps(repo.info(), ensure_ascii=False)
    tree = json.dumps(repo.tree(), ensure_ascii=False)
    (folder / "index.json").write_text(info, encoding="utf-8")
    (folder / "refs").write_text(json.dumps(repo.refs()), encoding="utf-8")
    for revision in (*REVISIONS, repo.commit):
        (folder / "revision" / quote(revision, safe="")).write_text(info, encoding="utf-8")
        (folder / "tree" / quote(revision, safe="")).write_text(tree, encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Writes an nginx configuration that serves models as a hub does.")
    parser.add_argument("--root", type=Path, required=True, help="working folder for nginx")
    parser.add_argument("--model-root", type=Path, required=True, help="folder with <org>/<name>/ folders")
    parser.add_argument("--port", type=int, default=8080, help="default: %(default)s")
    parser.add_argument("--listen", default="127.0.0.1", help="default: %(default)s")
    given = vars(parser.parse_args())
    print(write_config(given.pop("root"), given.pop("model_root"), **given))


if __name__ == "__main__":
    main()
