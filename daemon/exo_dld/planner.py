"""Who gets what of a model: from what a person asked for, and what the nodes are, to the wants of a pull."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from exo_dl.core.manifest import Blob, Manifest
from exo_dl.core.placement import place_files, place_full, place_none
from exo_dl.core.plan import NodePlan, NodeRoom, Plan
from exo_dl.core.planfile import FilePlan, NodeLines, parse_plan
from exo_dl.core.wants import NodeWants, Wants
from exo_dl.errors import NoRoomError, PlacementError, UnknownStructureError, UsageError
from exo_dl.hubs.base import Hub, Resolved
from exo_dl.rpc.v1 import pull_pb2
from exo_dl.store.hflayout import HFLayout
from exo_dl.store.library import Library
from exo_dld.dividing import DEFAULT_FRACTION, Division, divide, from_file, wants_of
from exo_dld.membership import Membership
from exo_dld.placements import Placements
from exo_dld.structure import Structure, read_structure

__all__ = ["Planned", "Planner", "check_placement"]

PLACES = ("full", "layers", "experts", "files", "none")
_MAX_WANTS = 10_000
_MAX_TEXT = 1000
_MAX_PLAN_BYTES = 8 << 20
_MAX_MEMORY = 1 << 60


@dataclass(frozen=True, slots=True)
class Planned:
    """What came of a request.

    Attributes:
        wants: the placement; None where every target gets everything.
        plan: the same, as it was computed.
        rooms: of the nodes.
        notes: for a person.
    """

    wants: Wants | None
    plan: Plan
    rooms: Mapping[str, NodeRoom]
    notes: tuple[str, ...]


def check_placement(asked: pull_pb2.Placement, layout: str) -> str:
    """The kind of placement that is asked for, with its bounds checked.

    Raises:
        UsageError: something in it cannot be used.
    """
    place = asked.place or ("file" if asked.plan else "full")
    if asked.plan and asked.place:
        raise UsageError("A plan file and --place were both given.", hint="Give one of them.")
    if place != "file" and place not in PLACES:
        raise UsageError(f"{asked.place[:40]!r} is no placement.", hint=f"One of {', '.join(PLACES)}.")
    if asked.wants and place != "files":
        raise UsageError("--want goes with --place files.", hint="Give --place files, or leave --want out.")
    if place == "files" and not asked.wants:
        raise UsageError("--place files needs to know who wants what.", hint="Give --want NODE='GLOB' for each node.")
    if place not in ("layers", "experts") and (asked.memory or asked.fraction or asked.replan):
        raise UsageError("--memory, --fraction and --replan go with --place layers and --place experts.")
    if asked.fraction and not 0.01 <= asked.fraction <= 1:
        raise UsageError(f"--fraction {asked.fraction:g} is not from 0.01 to 1.")
    if any(not 0 < m.bytes <= _MAX_MEMORY for m in asked.memory):
        raise UsageError("--memory must be above 0, and at most 1 EiB.")
    if len(asked.wants) + len(asked.memory) + len(asked.helpers) > _MAX_WANTS or len(asked.plan) > _MAX_PLAN_BYTES:
        raise UsageError("The placement is too long.")
    if any(not 0 < len(want.glob) <= _MAX_TEXT for want in asked.wants):
        raise UsageError(f"A glob of --want is empty or longer than {_MAX_TEXT} characters.")
    kind = layout.partition(":")[0]
    if kind == "exo" and (place != "full" or asked.helpers):
        raise UsageError("exo takes complete models only.", hint="Leave out --place, or use another --layout.")
    return place


class Planner:
    """Makes placements.

    Args:
        rooms: memory and free disk of all linked nodes by id, this one included.
        resolve: node ids for what a person called them.
        name_of: a node's name.
        hub_for: the hub behind an endpoint.
        library: what this node holds (read in place of the hub's files), and the placements that it knows.
        links: to the other nodes, which know of placements too.
        hf_cache: the Hugging Face cache, where parts of files are too.
        node_id: this node.
    """

    def __init__(
        self,
        *,
        rooms: Callable[[], Mapping[str, NodeRoom]],
        resolve: Callable[[Sequence[str]], frozenset[str]],
        name_of: Callable[[str], str],
        hub_for: Callable[[str], Hub],
        library: Library,
        links: Membership,
        hf_cache: Path,
        node_id: str,
    ) -> None:
        self._rooms = rooms
        self._resolve = resolve
        self._name_of = name_of
        self._hub_for = hub_for
        self._library = library
        self.placements = Placements(library, up=links.up, send=links.send)
        self._hf_cache = hf_cache
        self._node_id = node_id

    async def plan(
        self, asked: pull_pb2.Placement, resolved: Resolved, targets: frozenset[str], *, layout: str
    ) -> Planned:
        """The placement of a resolved model.

        Args:
            asked: what a person wants.
            resolved: the model.
            targets: node ids; empty: every node that is linked now.
            layout: where it goes.

        Raises:
            UsageError, NotFoundError, StorageError, FormatError: with what cannot be done, and by how much.
            HubError, HubBusyError, AccessError: the hub does not give the headers.
        """
        place = check_placement(asked, layout)
        manifest = resolved.manifest
        helpers = self._resolve(list(asked.helpers)) if asked.helpers else frozenset()
        rooms = dict(self._rooms())
        for memory in asked.memory:
            (node,) = self._resolve([memory.node])
            disk = rooms[node].disk_bytes if node in rooms else None
            rooms[node] = NodeRoom(node, memory.bytes, disk)
        if overlap := targets & helpers:
            raise UsageError(f"{self._name_of(min(overlap))} is named as a target and as a helper.")
        nodes = sorted((targets or frozenset(rooms)) - helpers, key=lambda n: (self._name_of(n), n))
        missing = [n for n in nodes if n not in rooms]
        if missing:
            raise UsageError(f"{self._name_of(missing[0])} is not linked now.", hint="See: exo-dl peers")
        if not nodes and place != "none":
            raise UsageError("No node is left that gets anything.")
        if place == "full" and not helpers:
            return Planned(None, place_full(_sizes(manifest), nodes), rooms, ())
        try:
            plan, headers, notes = await self._divide(place, asked, manifest, resolved, nodes, rooms)
        except (PlacementError, NoRoomError) as error:
            for node in rooms:  # people know them by name
                error.what = error.what.replace(node, self._name_of(node))
                error.hint = error.hint.replace(node, self._name_of(node))
            raise
        wants = wants_of(place, manifest, plan, headers, self._name_of)
        wants |= {n: NodeWants(note={"placement": "none"}) for n in helpers}
        placement = Wants("files" if place == "full" else place, wants)
        placement.require_sendable()
        return Planned(placement, plan, rooms, notes)

    async def _divide(
        self,
        place: str,
        asked: pull_pb2.Placement,
        manifest: Manifest,
        resolved: Resolved,
        nodes: Sequence[str],
        rooms: Mapping[str, NodeRoom],
    ) -> tuple[Plan, Mapping[str, int], tuple[str, ...]]:
        """The plan, the bytes of each divided file's header, and notes."""
        if place == "full":
            return place_full(_sizes(manifest), nodes), {}, ()
        if place == "none":
            return place_none(nodes) if nodes else Plan("none", {}), {}, ()
        if place == "files":
            return self._files(asked, manifest, nodes), {}, ()
        hub = self._hub_for(resolved.endpoint)
        if place == "file":
            return await asyncio.to_thread(self._from_file, self._file(asked.plan, rooms), manifest, hub)
        division = Division(
            place,
            rooms=[rooms[node] for node in nodes],
            fraction=asked.fraction or DEFAULT_FRACTION,
            previous=await self.placements.previous(manifest, place),
            replan=asked.replan,
        )
        try:
            # In a thread: with a hundred thousand tensors the arithmetic too takes seconds.
            return await asyncio.to_thread(self._read_and_divide, division, manifest, hub)
        except UnknownStructureError as error:
            return place_full(_sizes(manifest), nodes), {}, (f"{error.what} Every node gets all of it.",)

    def _read_and_divide(
        self, division: Division, manifest: Manifest, hub: Hub
    ) -> tuple[Plan, Mapping[str, int], tuple[str, ...]]:
        structure = read_structure(manifest, hub, partial(self._local, manifest))
        return divide(division, structure), _headers(structure), _notes(structure)

    def _from_file(
        self, plan: FilePlan, manifest: Manifest, hub: Hub
    ) -> tuple[Plan, Mapping[str, int], tuple[str, ...]]:
        if not plan.needs_tensors:
            return from_file(plan, manifest, None), {}, ()
        structure = read_structure(manifest, hub, partial(self._local, manifest))
        return from_file(plan, manifest, structure), _headers(structure), ()

    def _files(self, asked: pull_pb2.Placement, manifest: Manifest, nodes: Sequence[str]) -> Plan:
        globs: dict[str, list[str]] = {node: [] for node in nodes}
        for want in asked.wants:
            (node,) = self._resolve([want.node])
            if node not in globs:
                raise UsageError(f"--want names {want.node!r}, which is no target of this pull.", hint="See --nodes.")
            if not any(fnmatchcase(f.path, want.glob) for f in manifest.files):
                raise UsageError(f"No file of {manifest.repo} matches --want {want.node}={want.glob!r}.")
            globs[node].append(want.glob)
        return place_files(_sizes(manifest), nodes, globs)

    def _file(self, text: str, rooms: Mapping[str, NodeRoom]) -> FilePlan:
        """A plan file with node ids for the names in it."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UsageError("The plan is no JSON.") from error
        named = parse_plan(document)
        nodes: dict[str, NodeLines] = {}
        for name, lines in named.nodes.items():
            (node,) = self._resolve([name])
            if node in nodes:
                raise UsageError(f"The plan file names {self._name_of(node)} twice.")
            if node not in rooms:
                raise UsageError(f"{name} is not linked now.", hint="See: exo-dl peers")
            nodes[node] = lines
        return FilePlan(nodes, named.common)

    def _local(self, manifest: Manifest, blob: Blob) -> list[Path]:
        """Files here that should have a content, or its beginning: what they say is only believed where it fits."""
        layout = HFLayout(self._hf_cache)
        part = layout.folder.path(layout.part_name(manifest, blob, self._node_id))
        return [*(held.path for held in self._library.find(blob)), *layout.existing(manifest, blob), part]

    def answer(self, resolved: Resolved, planned: Planned, asked: pull_pb2.Placement) -> pull_pb2.PlanPullResponse:
        """The plan as clients see it."""
        manifest = resolved.manifest
        place = asked.place or ("file" if asked.plan else "full")
        fraction = asked.fraction or DEFAULT_FRACTION
        nodes, union = [], 0
        for node, part in planned.plan.nodes.items():
            wants = planned.wants.of(node) if planned.wants else NodeWants(frozenset(f.path for f in manifest.files))
            pieces = wants.pieces(manifest)
            union |= pieces
            room = planned.rooms.get(node, NodeRoom(node, 0))
            nodes.append(
                pull_pb2.NodePlan(
                    id=node,
                    name=self._name_of(node),
                    memory_bytes=room.memory_bytes,
                    usable_bytes=int(room.memory_bytes * fraction) if place in ("layers", "experts") else 0,
                    disk_free_bytes=room.disk_bytes or 0,
                    bytes=part.size,
                    layers=[pull_pb2.Span(first=a, end=b) for a, b in part.layers],
                    experts=_experts_text(part),
                    whole_files=len(wants.whole),
                    part_files=len(wants.parts),
                )
            )
        return pull_pb2.PlanPullResponse(
            repo=manifest.repo,
            revision=resolved.revision,
            commit=manifest.commit,
            place=place,
            model_bytes=manifest.total_bytes,
            union_bytes=manifest.set_bytes(union),
            layers=planned.plan.layer_count,
            nodes=nodes,
            notes=planned.notes,
        )


def _headers(structure: Structure) -> dict[str, int]:
    return {file.file: file.header_bytes for file in structure.model.files.values()}


def _notes(structure: Structure) -> tuple[str, ...]:
    return (structure.note,) if structure.note else ()


def _sizes(manifest: Manifest) -> dict[str, int]:
    return {entry.path: entry.size for entry in manifest.files}


def _experts_text(part: NodePlan) -> str:
    counts = sorted({sum(end - first for first, end in runs) for runs in part.experts.values()})
    if not counts:
        return ""
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
