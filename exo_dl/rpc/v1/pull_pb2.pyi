from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PullState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PULL_STATE_UNSPECIFIED: _ClassVar[PullState]
    PULL_STATE_RUNNING: _ClassVar[PullState]
    PULL_STATE_DONE: _ClassVar[PullState]
    PULL_STATE_FAILED: _ClassVar[PullState]
    PULL_STATE_CANCELLED: _ClassVar[PullState]

class NodePullState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_PULL_STATE_UNSPECIFIED: _ClassVar[NodePullState]
    NODE_PULL_STATE_WAITING: _ClassVar[NodePullState]
    NODE_PULL_STATE_CHECKING: _ClassVar[NodePullState]
    NODE_PULL_STATE_PULLING: _ClassVar[NodePullState]
    NODE_PULL_STATE_PUBLISHING: _ClassVar[NodePullState]
    NODE_PULL_STATE_DONE: _ClassVar[NodePullState]
    NODE_PULL_STATE_FAILED: _ClassVar[NodePullState]
    NODE_PULL_STATE_CANCELLED: _ClassVar[NodePullState]
    NODE_PULL_STATE_LOST: _ClassVar[NodePullState]
PULL_STATE_UNSPECIFIED: PullState
PULL_STATE_RUNNING: PullState
PULL_STATE_DONE: PullState
PULL_STATE_FAILED: PullState
PULL_STATE_CANCELLED: PullState
NODE_PULL_STATE_UNSPECIFIED: NodePullState
NODE_PULL_STATE_WAITING: NodePullState
NODE_PULL_STATE_CHECKING: NodePullState
NODE_PULL_STATE_PULLING: NodePullState
NODE_PULL_STATE_PUBLISHING: NodePullState
NODE_PULL_STATE_DONE: NodePullState
NODE_PULL_STATE_FAILED: NodePullState
NODE_PULL_STATE_CANCELLED: NodePullState
NODE_PULL_STATE_LOST: NodePullState

class StartPullRequest(_message.Message):
    __slots__ = ("repo", "revision", "repo_type", "include", "exclude", "nodes", "layout", "share_gated", "placement")
    REPO_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REPO_TYPE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    SHARE_GATED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    repo: str
    revision: str
    repo_type: str
    include: _containers.RepeatedScalarFieldContainer[str]
    exclude: _containers.RepeatedScalarFieldContainer[str]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    layout: str
    share_gated: bool
    placement: Placement
    def __init__(self, repo: _Optional[str] = ..., revision: _Optional[str] = ..., repo_type: _Optional[str] = ..., include: _Optional[_Iterable[str]] = ..., exclude: _Optional[_Iterable[str]] = ..., nodes: _Optional[_Iterable[str]] = ..., layout: _Optional[str] = ..., share_gated: _Optional[bool] = ..., placement: _Optional[_Union[Placement, _Mapping]] = ...) -> None: ...

class Placement(_message.Message):
    __slots__ = ("place", "memory", "fraction", "wants", "helpers", "replan", "plan")
    PLACE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    HELPERS_FIELD_NUMBER: _ClassVar[int]
    REPLAN_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    place: str
    memory: _containers.RepeatedCompositeFieldContainer[NodeMemory]
    fraction: float
    wants: _containers.RepeatedCompositeFieldContainer[NodeGlob]
    helpers: _containers.RepeatedScalarFieldContainer[str]
    replan: bool
    plan: str
    def __init__(self, place: _Optional[str] = ..., memory: _Optional[_Iterable[_Union[NodeMemory, _Mapping]]] = ..., fraction: _Optional[float] = ..., wants: _Optional[_Iterable[_Union[NodeGlob, _Mapping]]] = ..., helpers: _Optional[_Iterable[str]] = ..., replan: _Optional[bool] = ..., plan: _Optional[str] = ...) -> None: ...

class NodeMemory(_message.Message):
    __slots__ = ("node", "bytes")
    NODE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    node: str
    bytes: int
    def __init__(self, node: _Optional[str] = ..., bytes: _Optional[int] = ...) -> None: ...

class NodeGlob(_message.Message):
    __slots__ = ("node", "glob")
    NODE_FIELD_NUMBER: _ClassVar[int]
    GLOB_FIELD_NUMBER: _ClassVar[int]
    node: str
    glob: str
    def __init__(self, node: _Optional[str] = ..., glob: _Optional[str] = ...) -> None: ...

class PlanPullRequest(_message.Message):
    __slots__ = ("pull",)
    PULL_FIELD_NUMBER: _ClassVar[int]
    pull: StartPullRequest
    def __init__(self, pull: _Optional[_Union[StartPullRequest, _Mapping]] = ...) -> None: ...

class PlanPullResponse(_message.Message):
    __slots__ = ("repo", "revision", "commit", "place", "model_bytes", "union_bytes", "layers", "nodes", "notes")
    REPO_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    UNION_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    repo: str
    revision: str
    commit: str
    place: str
    model_bytes: int
    union_bytes: int
    layers: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodePlan]
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, repo: _Optional[str] = ..., revision: _Optional[str] = ..., commit: _Optional[str] = ..., place: _Optional[str] = ..., model_bytes: _Optional[int] = ..., union_bytes: _Optional[int] = ..., layers: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodePlan, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class NodePlan(_message.Message):
    __slots__ = ("id", "name", "memory_bytes", "usable_bytes", "disk_free_bytes", "bytes", "layers", "experts", "whole_files", "part_files")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    USABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FILES_FIELD_NUMBER: _ClassVar[int]
    PART_FILES_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    memory_bytes: int
    usable_bytes: int
    disk_free_bytes: int
    bytes: int
    layers: _containers.RepeatedCompositeFieldContainer[Span]
    experts: str
    whole_files: int
    part_files: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., usable_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., bytes: _Optional[int] = ..., layers: _Optional[_Iterable[_Union[Span, _Mapping]]] = ..., experts: _Optional[str] = ..., whole_files: _Optional[int] = ..., part_files: _Optional[int] = ...) -> None: ...

class Span(_message.Message):
    __slots__ = ("first", "end")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    first: int
    end: int
    def __init__(self, first: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class StartPullResponse(_message.Message):
    __slots__ = ("pull", "joined")
    PULL_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    pull: Pull
    joined: bool
    def __init__(self, pull: _Optional[_Union[Pull, _Mapping]] = ..., joined: _Optional[bool] = ...) -> None: ...

class WatchPullRequest(_message.Message):
    __slots__ = ("pull_id",)
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    def __init__(self, pull_id: _Optional[str] = ...) -> None: ...

class WatchPullResponse(_message.Message):
    __slots__ = ("pull",)
    PULL_FIELD_NUMBER: _ClassVar[int]
    pull: Pull
    def __init__(self, pull: _Optional[_Union[Pull, _Mapping]] = ...) -> None: ...

class ListPullsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPullsResponse(_message.Message):
    __slots__ = ("pulls",)
    PULLS_FIELD_NUMBER: _ClassVar[int]
    pulls: _containers.RepeatedCompositeFieldContainer[Pull]
    def __init__(self, pulls: _Optional[_Iterable[_Union[Pull, _Mapping]]] = ...) -> None: ...

class CancelPullRequest(_message.Message):
    __slots__ = ("pull_id",)
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    def __init__(self, pull_id: _Optional[str] = ...) -> None: ...

class CancelPullResponse(_message.Message):
    __slots__ = ("pull",)
    PULL_FIELD_NUMBER: _ClassVar[int]
    pull: Pull
    def __init__(self, pull: _Optional[_Union[Pull, _Mapping]] = ...) -> None: ...

class Pull(_message.Message):
    __slots__ = ("pull_id", "repo", "revision", "commit", "state", "wall_s", "bound_s", "remaining_s", "bytes_wanted", "bytes_done", "bytes_from_hub", "bytes_from_peers", "files", "model_bytes", "nodes", "coordinator_id", "epoch", "layout", "error", "events", "path", "started_at_s", "lost_nodes")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WALL_S_FIELD_NUMBER: _ClassVar[int]
    BOUND_S_FIELD_NUMBER: _ClassVar[int]
    REMAINING_S_FIELD_NUMBER: _ClassVar[int]
    BYTES_WANTED_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_HUB_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_PEERS_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    MODEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_S_FIELD_NUMBER: _ClassVar[int]
    LOST_NODES_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    repo: str
    revision: str
    commit: str
    state: PullState
    wall_s: float
    bound_s: float
    remaining_s: float
    bytes_wanted: int
    bytes_done: int
    bytes_from_hub: int
    bytes_from_peers: int
    files: int
    model_bytes: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodePull]
    coordinator_id: str
    epoch: int
    layout: str
    error: str
    events: _containers.RepeatedScalarFieldContainer[str]
    path: str
    started_at_s: float
    lost_nodes: _containers.RepeatedCompositeFieldContainer[NodePull]
    def __init__(self, pull_id: _Optional[str] = ..., repo: _Optional[str] = ..., revision: _Optional[str] = ..., commit: _Optional[str] = ..., state: _Optional[_Union[PullState, str]] = ..., wall_s: _Optional[float] = ..., bound_s: _Optional[float] = ..., remaining_s: _Optional[float] = ..., bytes_wanted: _Optional[int] = ..., bytes_done: _Optional[int] = ..., bytes_from_hub: _Optional[int] = ..., bytes_from_peers: _Optional[int] = ..., files: _Optional[int] = ..., model_bytes: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodePull, _Mapping]]] = ..., coordinator_id: _Optional[str] = ..., epoch: _Optional[int] = ..., layout: _Optional[str] = ..., error: _Optional[str] = ..., events: _Optional[_Iterable[str]] = ..., path: _Optional[str] = ..., started_at_s: _Optional[float] = ..., lost_nodes: _Optional[_Iterable[_Union[NodePull, _Mapping]]] = ...) -> None: ...

class NodePull(_message.Message):
    __slots__ = ("id", "name", "state", "bytes_wanted", "bytes_done", "bytes_from_hub", "bytes_from_peers", "hub_bytes_per_s", "peer_bytes_per_s", "error", "bytes_held", "hub_connections", "leases")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BYTES_WANTED_FIELD_NUMBER: _ClassVar[int]
    BYTES_DONE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_HUB_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_PEERS_FIELD_NUMBER: _ClassVar[int]
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    PEER_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    BYTES_HELD_FIELD_NUMBER: _ClassVar[int]
    HUB_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    state: NodePullState
    bytes_wanted: int
    bytes_done: int
    bytes_from_hub: int
    bytes_from_peers: int
    hub_bytes_per_s: float
    peer_bytes_per_s: float
    error: str
    bytes_held: int
    hub_connections: int
    leases: _containers.RepeatedCompositeFieldContainer[NodeLease]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[NodePullState, str]] = ..., bytes_wanted: _Optional[int] = ..., bytes_done: _Optional[int] = ..., bytes_from_hub: _Optional[int] = ..., bytes_from_peers: _Optional[int] = ..., hub_bytes_per_s: _Optional[float] = ..., peer_bytes_per_s: _Optional[float] = ..., error: _Optional[str] = ..., bytes_held: _Optional[int] = ..., hub_connections: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[NodeLease, _Mapping]]] = ...) -> None: ...

class NodeLease(_message.Message):
    __slots__ = ("first", "end", "position", "path", "bytes_left")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    BYTES_LEFT_FIELD_NUMBER: _ClassVar[int]
    first: int
    end: int
    position: int
    path: str
    bytes_left: int
    def __init__(self, first: _Optional[int] = ..., end: _Optional[int] = ..., position: _Optional[int] = ..., path: _Optional[str] = ..., bytes_left: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("repo", "commit", "revisions", "size_bytes", "files", "path", "layout", "complete")
    REPO_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    repo: str
    commit: str
    revisions: _containers.RepeatedScalarFieldContainer[str]
    size_bytes: int
    files: int
    path: str
    layout: str
    complete: bool
    def __init__(self, repo: _Optional[str] = ..., commit: _Optional[str] = ..., revisions: _Optional[_Iterable[str]] = ..., size_bytes: _Optional[int] = ..., files: _Optional[int] = ..., path: _Optional[str] = ..., layout: _Optional[str] = ..., complete: _Optional[bool] = ...) -> None: ...

class VerifyModelRequest(_message.Message):
    __slots__ = ("repo", "revision")
    REPO_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    repo: str
    revision: str
    def __init__(self, repo: _Optional[str] = ..., revision: _Optional[str] = ...) -> None: ...

class VerifyModelResponse(_message.Message):
    __slots__ = ("path", "size_bytes", "ok", "problem", "files_total", "files_done")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OK_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    FILES_TOTAL_FIELD_NUMBER: _ClassVar[int]
    FILES_DONE_FIELD_NUMBER: _ClassVar[int]
    path: str
    size_bytes: int
    ok: bool
    problem: str
    files_total: int
    files_done: int
    def __init__(self, path: _Optional[str] = ..., size_bytes: _Optional[int] = ..., ok: _Optional[bool] = ..., problem: _Optional[str] = ..., files_total: _Optional[int] = ..., files_done: _Optional[int] = ...) -> None: ...
