from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PeerState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PEER_STATE_UNSPECIFIED: _ClassVar[PeerState]
    PEER_STATE_SELF: _ClassVar[PeerState]
    PEER_STATE_UP: _ClassVar[PeerState]
    PEER_STATE_UNREACHABLE: _ClassVar[PeerState]
PEER_STATE_UNSPECIFIED: PeerState
PEER_STATE_SELF: PeerState
PEER_STATE_UP: PeerState
PEER_STATE_UNREACHABLE: PeerState

class ListPeersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPeersResponse(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class WatchPeersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchPeersResponse(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    def __init__(self, peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("id", "name", "state", "addresses", "version", "memory_total_bytes", "memory_available_bytes", "disk_free_bytes", "hub_bytes_per_s", "lan_bytes_per_s", "activity", "last_seen_s", "problem", "pull_ids")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    LAST_SEEN_S_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    PULL_IDS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    state: PeerState
    addresses: _containers.RepeatedScalarFieldContainer[str]
    version: str
    memory_total_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    hub_bytes_per_s: float
    lan_bytes_per_s: float
    activity: str
    last_seen_s: float
    problem: str
    pull_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[PeerState, str]] = ..., addresses: _Optional[_Iterable[str]] = ..., version: _Optional[str] = ..., memory_total_bytes: _Optional[int] = ..., memory_available_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., hub_bytes_per_s: _Optional[float] = ..., lan_bytes_per_s: _Optional[float] = ..., activity: _Optional[str] = ..., last_seen_s: _Optional[float] = ..., problem: _Optional[str] = ..., pull_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetLimitsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: ClusterLimits
    def __init__(self, limits: _Optional[_Union[ClusterLimits, _Mapping]] = ...) -> None: ...

class SetLimitsRequest(_message.Message):
    __slots__ = ("nodes", "hub_bytes_per_s", "lan_up_bytes_per_s", "lan_down_bytes_per_s", "cluster_hub_bytes_per_s")
    NODES_FIELD_NUMBER: _ClassVar[int]
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_UP_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_DOWN_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    hub_bytes_per_s: int
    lan_up_bytes_per_s: int
    lan_down_bytes_per_s: int
    cluster_hub_bytes_per_s: int
    def __init__(self, nodes: _Optional[_Iterable[str]] = ..., hub_bytes_per_s: _Optional[int] = ..., lan_up_bytes_per_s: _Optional[int] = ..., lan_down_bytes_per_s: _Optional[int] = ..., cluster_hub_bytes_per_s: _Optional[int] = ...) -> None: ...

class SetLimitsResponse(_message.Message):
    __slots__ = ("limits",)
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    limits: ClusterLimits
    def __init__(self, limits: _Optional[_Union[ClusterLimits, _Mapping]] = ...) -> None: ...

class ClusterLimits(_message.Message):
    __slots__ = ("cluster_hub_bytes_per_s", "nodes")
    CLUSTER_HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    cluster_hub_bytes_per_s: int
    nodes: _containers.RepeatedCompositeFieldContainer[NodeLimits]
    def __init__(self, cluster_hub_bytes_per_s: _Optional[int] = ..., nodes: _Optional[_Iterable[_Union[NodeLimits, _Mapping]]] = ...) -> None: ...

class NodeLimits(_message.Message):
    __slots__ = ("id", "name", "hub_bytes_per_s", "lan_up_bytes_per_s", "lan_down_bytes_per_s", "hub_share_bytes_per_s", "hub_used_bytes_per_s")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_UP_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_DOWN_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    HUB_SHARE_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    HUB_USED_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    hub_bytes_per_s: int
    lan_up_bytes_per_s: int
    lan_down_bytes_per_s: int
    hub_share_bytes_per_s: float
    hub_used_bytes_per_s: float
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., hub_bytes_per_s: _Optional[int] = ..., lan_up_bytes_per_s: _Optional[int] = ..., lan_down_bytes_per_s: _Optional[int] = ..., hub_share_bytes_per_s: _Optional[float] = ..., hub_used_bytes_per_s: _Optional[float] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("within_s",)
    WITHIN_S_FIELD_NUMBER: _ClassVar[int]
    within_s: float
    def __init__(self, within_s: _Optional[float] = ...) -> None: ...

class LeaveResponse(_message.Message):
    __slots__ = ("pieces_left", "seconds")
    PIECES_LEFT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    pieces_left: int
    seconds: float
    def __init__(self, pieces_left: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class GetMetricsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetMetricsResponse(_message.Message):
    __slots__ = ("metrics",)
    METRICS_FIELD_NUMBER: _ClassVar[int]
    metrics: NodeMetrics
    def __init__(self, metrics: _Optional[_Union[NodeMetrics, _Mapping]] = ...) -> None: ...

class NodeMetrics(_message.Message):
    __slots__ = ("id", "name", "version", "uptime_s", "loop_lag", "bytes_from_hub", "bytes_from_peers", "received_from_hub_bytes", "received_from_peers_bytes", "bytes_served", "piece_requests", "piece_requests_busy", "piece_requests_refused", "calls_refused", "piece_connections", "uploads", "peers_up", "pulls_running", "pulls_done", "pulls_failed", "pulls_cancelled", "cpu_s", "rss_bytes", "threads", "open_files", "connections_refused", "dropped_unknown_pull", "dropped_other_epoch", "dropped_no_say", "dropped_malformed", "dropped_too_many", "dropped_other_protocol", "dropped_wrong_bytes", "dropped_no_answer")
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    LOOP_LAG_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_HUB_FIELD_NUMBER: _ClassVar[int]
    BYTES_FROM_PEERS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FROM_HUB_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FROM_PEERS_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_SERVED_FIELD_NUMBER: _ClassVar[int]
    PIECE_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    PIECE_REQUESTS_BUSY_FIELD_NUMBER: _ClassVar[int]
    PIECE_REQUESTS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    CALLS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    PIECE_CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    PEERS_UP_FIELD_NUMBER: _ClassVar[int]
    PULLS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    PULLS_DONE_FIELD_NUMBER: _ClassVar[int]
    PULLS_FAILED_FIELD_NUMBER: _ClassVar[int]
    PULLS_CANCELLED_FIELD_NUMBER: _ClassVar[int]
    CPU_S_FIELD_NUMBER: _ClassVar[int]
    RSS_BYTES_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_REFUSED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_UNKNOWN_PULL_FIELD_NUMBER: _ClassVar[int]
    DROPPED_OTHER_EPOCH_FIELD_NUMBER: _ClassVar[int]
    DROPPED_NO_SAY_FIELD_NUMBER: _ClassVar[int]
    DROPPED_MALFORMED_FIELD_NUMBER: _ClassVar[int]
    DROPPED_TOO_MANY_FIELD_NUMBER: _ClassVar[int]
    DROPPED_OTHER_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    DROPPED_WRONG_BYTES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_NO_ANSWER_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    version: str
    uptime_s: float
    loop_lag: LoopLag
    bytes_from_hub: int
    bytes_from_peers: int
    received_from_hub_bytes: int
    received_from_peers_bytes: int
    bytes_served: int
    piece_requests: int
    piece_requests_busy: int
    piece_requests_refused: int
    calls_refused: int
    piece_connections: int
    uploads: int
    peers_up: int
    pulls_running: int
    pulls_done: int
    pulls_failed: int
    pulls_cancelled: int
    cpu_s: float
    rss_bytes: int
    threads: int
    open_files: int
    connections_refused: int
    dropped_unknown_pull: int
    dropped_other_epoch: int
    dropped_no_say: int
    dropped_malformed: int
    dropped_too_many: int
    dropped_other_protocol: int
    dropped_wrong_bytes: int
    dropped_no_answer: int
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., uptime_s: _Optional[float] = ..., loop_lag: _Optional[_Union[LoopLag, _Mapping]] = ..., bytes_from_hub: _Optional[int] = ..., bytes_from_peers: _Optional[int] = ..., received_from_hub_bytes: _Optional[int] = ..., received_from_peers_bytes: _Optional[int] = ..., bytes_served: _Optional[int] = ..., piece_requests: _Optional[int] = ..., piece_requests_busy: _Optional[int] = ..., piece_requests_refused: _Optional[int] = ..., calls_refused: _Optional[int] = ..., piece_connections: _Optional[int] = ..., uploads: _Optional[int] = ..., peers_up: _Optional[int] = ..., pulls_running: _Optional[int] = ..., pulls_done: _Optional[int] = ..., pulls_failed: _Optional[int] = ..., pulls_cancelled: _Optional[int] = ..., cpu_s: _Optional[float] = ..., rss_bytes: _Optional[int] = ..., threads: _Optional[int] = ..., open_files: _Optional[int] = ..., connections_refused: _Optional[int] = ..., dropped_unknown_pull: _Optional[int] = ..., dropped_other_epoch: _Optional[int] = ..., dropped_no_say: _Optional[int] = ..., dropped_malformed: _Optional[int] = ..., dropped_too_many: _Optional[int] = ..., dropped_other_protocol: _Optional[int] = ..., dropped_wrong_bytes: _Optional[int] = ..., dropped_no_answer: _Optional[int] = ...) -> None: ...

class LoopLag(_message.Message):
    __slots__ = ("p50_s", "p99_s", "max_s", "worst_s", "sum_s", "count", "buckets")
    P50_S_FIELD_NUMBER: _ClassVar[int]
    P99_S_FIELD_NUMBER: _ClassVar[int]
    MAX_S_FIELD_NUMBER: _ClassVar[int]
    WORST_S_FIELD_NUMBER: _ClassVar[int]
    SUM_S_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BUCKETS_FIELD_NUMBER: _ClassVar[int]
    p50_s: float
    p99_s: float
    max_s: float
    worst_s: float
    sum_s: float
    count: int
    buckets: _containers.RepeatedCompositeFieldContainer[LagBucket]
    def __init__(self, p50_s: _Optional[float] = ..., p99_s: _Optional[float] = ..., max_s: _Optional[float] = ..., worst_s: _Optional[float] = ..., sum_s: _Optional[float] = ..., count: _Optional[int] = ..., buckets: _Optional[_Iterable[_Union[LagBucket, _Mapping]]] = ...) -> None: ...

class LagBucket(_message.Message):
    __slots__ = ("at_most_s", "count")
    AT_MOST_S_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    at_most_s: float
    count: int
    def __init__(self, at_most_s: _Optional[float] = ..., count: _Optional[int] = ...) -> None: ...
