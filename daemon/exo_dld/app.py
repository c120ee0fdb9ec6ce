"""The daemon: the one place that makes all parts and puts them together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from exo_dl import __version__, secretfile
from exo_dl.core.budget import transfers_within
from exo_dl.core.plan import NodeRoom
from exo_dl.core.swarm import MAX_PEER_FETCHES
from exo_dl.errors import ExoDlError, NotFoundError
from exo_dl.hubs.base import Hub
from exo_dl.hubs.huggingface import DEFAULT_ENDPOINT, HuggingFaceHub
from exo_dl.hubs.session import warm_up
from exo_dl.locations import socket_path
from exo_dl.net.discovery import Discovery
from exo_dl.net.fetch import FetchPool
from exo_dl.net.identity import Identity
from exo_dl.net.piece_server import PieceServer
from exo_dl.net.piece_tls import PieceTls
from exo_dl.net.tickets import TicketKey, TicketSigner, authorizer
from exo_dl.rpc.v1 import access_pb2, access_pb2_grpc, cluster_pb2, cluster_pb2_grpc, pull_pb2, pull_pb2_grpc
from exo_dl.store.extent import Extent
from exo_dl.store.library import Library
from exo_dl.store.publish import layout_for
from exo_dl.store.pullstore import PullStore, StoreEvent
from exo_dld import config as settings
from exo_dld import hardening, logs, servers
from exo_dld.access import Gate
from exo_dld.access_service import AccessServicer
from exo_dld.config import Config
from exo_dld.doorway import Doorway
from exo_dld.gated import OwnAccess
from exo_dld.governor import Governor
from exo_dld.helping import Helping
from exo_dld.hubcheck import HubCheck, Vouched
from exo_dld.hubside import HeadStart, HubSide
from exo_dld.jobs import Jobs
from exo_dld.leaving import Leaving
from exo_dld.limits import Limits
from exo_dld.membership import Membership
from exo_dld.memory import reserve_bytes, total_bytes
from exo_dld.messages import PullSpec, select
from exo_dld.metrics import Metrics
from exo_dld.peerbook import UP
from exo_dld.planner import Planner
from exo_dld.ports import Ports
from exo_dld.pulls import Pulls
from exo_dld.readers import Readers
from exo_dld.rekey import Rekey
from exo_dld.services import ClusterServicer, PullServicer, WatchLimit
from exo_dld.session import Session
from exo_dld.statedir import StateDir
from exo_dld.status import Status
from exo_dld.targets import OfferRules
from exo_dld.worker import Worker

__all__ = ["main", "run"]

_log = logging.getLogger(__name__)
_STOP_S = 2.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SERVICES = (
    cluster_pb2.DESCRIPTOR.services_by_name["ClusterService"].full_name,
    pull_pb2.DESCRIPTOR.services_by_name["PullService"].full_name,
    access_pb2.DESCRIPTOR.services_by_name["AccessService"].full_name,
)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the daemon until SIGINT or SIGTERM. Exit codes are those of `exo_dl.errors`."""
    hardening.keep_memory_private()
    hardening.keep_memory_together()
    # Else huggingface_hub asks the hub for a list of AI agents, to name one in its requests: before the first of them,
    # and a whole round trip of the pull that waits for it.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        config = settings.load(arguments)
        logs.setup_logging(
            as_json=config.log_json,
            level=config.log_level,
            secrets=[s for s in (config.cluster_secret, config.hf_token) if s],
        )
        asyncio.run(run(config))
    except ExoDlError as error:
        print(f"exo-dld: {error.what}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    sys.exit(0)


async def run(config: Config) -> None:
    """The daemon, from its lock to its last goodbye.

    Raises:
        ExoDlError: it cannot start.
    """
    started = time.monotonic()
    hardening.raise_file_limit()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    async with contextlib.AsyncExitStack() as stack:
        state = StateDir(config.state_dir)
        stack.callback(state.close)
        daemon = await _assemble(config, state, stack)
        for number in _SIGNALS:
            loop.add_signal_handler(number, daemon.leaving.signalled)
        if stop.is_set():
            daemon.leaving.signalled()
        _say_hello(config, daemon, time.monotonic() - started)
        # Half a second that the first pull would wait for.
        warm = asyncio.create_task(asyncio.to_thread(warm_up))
        await daemon.leaving.wait()
        _log.info("stopping")
        await warm
    _log.info("stopped")


@dataclass(frozen=True, slots=True)
class _Started:
    node_id: str
    cluster_id: str
    port: int
    piece_port: int
    new_secret: bool
    leaving: Leaving


async def _assemble(config: Config, state: StateDir, stack: contextlib.AsyncExitStack) -> _Started:
    library = Library(state.path / "state.db")
    stack.callback(library.close)
    secret, new_secret = (config.cluster_secret, False)
    if secret is None:
        secret, new_secret = secretfile.load_or_create_secret(state.path)
    identity = Identity(secret, state.node_id())
    ticket_key = TicketKey(identity.ticket_key())
    status = Status(config.hf_cache, library)
    limits = Limits(library, hub_limit=config.hub_limit_bytes_per_s, lan_limit=config.lan_limit_bytes_per_s)
    stack.callback(limits.close)
    discovery = None
    if config.mdns:
        discovery = Discovery(
            node_id=identity.node_id,
            cluster_id=identity.cluster_id,
            name=config.name,
            version=__version__,
            listen_hosts=[config.host] if config.host else [],
        )
    probe_signer = TicketSigner(ticket_key, identity.node_id)
    membership = Membership(
        identity=identity,
        name=config.name,
        version=__version__,
        status=lambda: limits.mark(status.beat()),
        static_peers=config.peers,
        discovery=discovery,
        listen_hosts=[config.host] if config.host else [],
        probe_headers=probe_signer.headers,
    )

    tls = PieceTls(identity)
    jobs = Jobs(asyncio.get_running_loop())
    threads = transfers_within(config.memory_budget_bytes)
    pool = FetchPool(
        events=jobs.deliver,
        max_peer_threads=threads,
        max_hub_threads=threads,
        hub_limiter=limits.hub,
        peer_limiter=limits.lan_down,
        tls=tls,
    )
    stack.callback(pool.close)
    membership.on_down.append(lambda _node, _reason: pool.close_broken())

    def locate(pull_id: str, first: int, end: int) -> Sequence[Extent]:
        session = pulls.session(pull_id)
        if session is None or session.worker is None:
            raise NotFoundError(f"Pull {pull_id} is not open here.")
        return session.worker.store.locate(first, end)

    def needs_tls(pull_id: str) -> bool:
        session = pulls.session(pull_id)
        return session is not None and session.spec.gated

    piece_server = PieceServer(
        hosts=[config.host] if config.host else ["::", "0.0.0.0"],  # noqa: S104  # a daemon for the LAN
        port=config.piece_port,
        locate=locate,
        authorize=authorizer(ticket_key, audience=identity.node_id),
        max_uploads=config.max_uploads,
        limiter=limits.lan_up,
        tls=tls,
        needs_tls=needs_tls,
    )
    metrics = Metrics(
        name=config.name,
        membership=membership,
        pool=pool,
        piece_server=piece_server,
        running=lambda: pulls.running(),
        calls_refused=lambda: gate.refused,
        connections_refused=lambda: doorway.refused,
    )
    stack.callback(metrics.close)

    def pull_ended(session: Session) -> None:
        status.remember(session)
        metrics.ended(session)

    vouched = Vouched()
    hub_for = _hubs(config)
    head_start = HeadStart(pool.hub_window)
    stack.callback(head_start.close)
    make_worker = _workers(config, identity, library, status, pool, jobs, vouched, head_start)
    pulls = Pulls(
        membership=membership,
        name=config.name,
        hub_for=lambda endpoint: head_start.begin(hub_for(endpoint)),
        make_planner=lambda resolve, name_of: Planner(
            rooms=lambda: _rooms(membership, status),
            resolve=resolve,
            name_of=name_of,
            hub_for=hub_for,
            library=library,
            links=membership,
            hf_cache=config.hf_cache,
            node_id=identity.node_id,
        ),
        make_worker=lambda spec, ports: metrics.watch(make_worker(spec, ports)),
        make_signer=lambda node: TicketSigner(ticket_key, identity.node_id, audience=node),
        stop_serving=piece_server.stop_pull,
        on_end=pull_ended,
        rules=OfferRules(
            endpoint=config.hf_endpoint,
            allow_dirs=tuple(map(Path, config.allow_dirs)),
            allow_endpoints=config.allow_endpoints,
        ),
        vouched=vouched,
        share_gated=config.share_gated,
    )
    status.follow(pulls.running)
    limits.join(membership, name=config.name, running=pulls.running)
    leaving = Leaving(membership, pulls)
    governor = Governor(
        running=pulls.running,
        max_hub=config.max_hub_connections,
        max_peers=MAX_PEER_FETCHES,
        reserve=reserve_bytes(total_bytes()),
        writing=pool.writing,
        hush=lambda now: pool.hush(now=now),
        idle=lambda: leaving.begun,
    )
    stack.callback(governor.close)
    readers = Readers(library, identity, name=config.name)
    readers.join(membership)
    rekey = Rekey(
        membership,
        identity=identity,
        ticket_key=ticket_key,
        discovery=discovery,
        store=lambda text: secretfile.write_secret(state.path, text),
        secret=secret,
        fixed_by=config.secret_source,
    )
    piece_server.start()
    stack.callback(piece_server.close)

    doorway = Doorway(peers=membership.peers, group=config.socket_group)
    gate = Gate(identity, revoked=readers.revoked, doorway=doorway)
    server = servers.make_server(gate)
    watches = WatchLimit()
    cluster_pb2_grpc.add_ClusterServiceServicer_to_server(
        ClusterServicer(
            membership,
            name=config.name,
            version=__version__,
            status=status.beat,
            watches=watches,
            limits=limits,
            metrics=metrics,
            leaving=leaving,
        ),
        server,
    )
    pull_pb2_grpc.add_PullServiceServicer_to_server(PullServicer(pulls, library, watches), server)
    access_pb2_grpc.add_AccessServiceServicer_to_server(AccessServicer(readers, rekey), server)
    membership.add_to(server)
    await servers.add_standard_services(server, _SERVICES)
    credentials = partial(identity.server_credentials, knocked=doorway.knocked)
    port = servers.bind_port(server, config.host, config.port, chosen=config.port_chosen, credentials=credentials)
    socket = socket_path(config.state_dir)
    servers.bind_socket(server, socket, group=config.socket_group)
    stack.callback(socket.unlink, missing_ok=True)
    doorway.watch(port=port, path=socket)
    await server.start()
    watching = asyncio.create_task(doorway.run(pieces=lambda: piece_server.stats().refused))
    stack.callback(watching.cancel)
    stack.push_async_callback(server.stop, _STOP_S)
    await membership.start(grpc_port=port, piece_port=piece_server.port)
    stack.push_async_callback(membership.stop)
    stack.push_async_callback(pulls.stop)
    return _Started(identity.node_id, identity.cluster_id, port, piece_server.port, new_secret, leaving)


def _hubs(config: Config) -> Callable[[str], Hub]:
    """Hubs by endpoint. The token belongs to this node's own endpoint and goes nowhere else."""

    def hub_for(endpoint: str) -> Hub:
        if endpoint in ("", config.hf_endpoint) or config.hf_endpoint != DEFAULT_ENDPOINT:
            return HuggingFaceHub(config.hf_endpoint, config.current_hf_token() or "")
        return HuggingFaceHub(endpoint, "")

    return hub_for


def _workers(
    config: Config,
    identity: Identity,
    library: Library,
    status: Status,
    pool: FetchPool,
    jobs: Jobs,
    vouched: Vouched,
    head_start: HeadStart,
) -> Callable[[PullSpec, Ports], Worker]:
    hub_for = _hubs(config)

    def make_worker(spec: PullSpec, ports: Ports) -> Worker:
        hub = hub_for(spec.endpoint)
        me = identity.node_id
        selection = select(spec, me)
        others = {n: spec.pieces_of(n) for n in spec.placement.nodes if n != me} if spec.placement is not None else {}
        helping = Helping(spec.manifest, want=selection.want, others=others, limit_bytes=config.helper_cache_bytes)

        def make_store(events: Callable[[StoreEvent], None]) -> PullStore:
            return PullStore(
                spec.manifest,
                want=replace(selection, spare=helping.spare),
                layout=layout_for(spec.layout, hf_cache_dir=config.hf_cache),
                library=library,
                node_id=identity.node_id,
                events=events,
            )

        return Worker(
            pull_id=spec.pull_id,
            manifest=spec.manifest,
            want=selection.want,
            helping=helping,
            node_id=identity.node_id,
            make_store=make_store,
            pool=pool,
            jobs=jobs,
            hub=hub,
            make_hubside=partial(HubSide, hub, window=pool.hub_window, ahead=head_start.take(hub)),
            revision=spec.revision,
            max_hub_connections=config.max_hub_connections,
            rate_guess=status.hub_bytes_per_s,
            access=OwnAccess(hub, spec.manifest, needed=spec.gated, shared=spec.share_gated),
            ports=ports,
            check=HubCheck(spec.pull_id, spec.manifest, hub=hub, vouched=vouched),
        )

    return make_worker


def _rooms(membership: Membership, status: Status) -> dict[str, NodeRoom]:
    """Memory and free disk of this node and of those that are linked."""
    beats = {membership.node_id: status.beat()}
    beats |= {peer.id: peer.beat for peer in membership.peers() if peer.id and peer.state == UP}
    return {node: NodeRoom(node, beat.memory_total_bytes, beat.disk_free_bytes or None) for node, beat in beats.items()}


def _say_hello(config: Config, started: _Started, seconds: float) -> None:
    where = config.host or "all addresses"
    _log.info(
        "%s (%s) of cluster %s listens on %s, port %d (pieces: %d), after %.2f s",
        config.name, started.node_id, started.cluster_id, where, started.port, started.piece_port, seconds,
    )  # fmt: skip
    if started.new_secret:
        _log.info(
            "a new cluster was made; on the next machine run: exo-dl cluster join SECRET && exo-dl up "
            "(`exo-dl cluster show` prints the secret here)"
        )
    _log.info("pull a model on all machines with: exo-dl pull org/name (state in %s)", config.state_dir)
