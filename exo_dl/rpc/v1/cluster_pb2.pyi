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
