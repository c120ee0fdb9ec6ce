from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LeaseResult(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LEASE_RESULT_UNSPECIFIED: _ClassVar[LeaseResult]
    LEASE_RESULT_DONE: _ClassVar[LeaseResult]
    LEASE_RESULT_HUB_UNREACHABLE: _ClassVar[LeaseResult]
    LEASE_RESULT_HUB_BUSY: _ClassVar[LeaseResult]
    LEASE_RESULT_HUB_REFUSED: _ClassVar[LeaseResult]
    LEASE_RESULT_NO_ROOM: _ClassVar[LeaseResult]
    LEASE_RESULT_RETURNED: _ClassVar[LeaseResult]
LEASE_RESULT_UNSPECIFIED: LeaseResult
LEASE_RESULT_DONE: LeaseResult
LEASE_RESULT_HUB_UNREACHABLE: LeaseResult
LEASE_RESULT_HUB_BUSY: LeaseResult
LEASE_RESULT_HUB_REFUSED: LeaseResult
LEASE_RESULT_NO_ROOM: LeaseResult
LEASE_RESULT_RETURNED: LeaseResult

class IdentifyRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class IdentifyResponse(_message.Message):
    __slots__ = ("node_id", "name")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class LinkRequest(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[LinkMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[LinkMessage, _Mapping]]] = ...) -> None: ...

class LinkResponse(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[LinkMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[LinkMessage, _Mapping]]] = ...) -> None: ...

class LinkMessage(_message.Message):
    __slots__ = ("hello", "beat", "peer_gossip", "pull_offer", "pull_join", "lease_ask", "lease_grant", "lease_cut", "lease_progress", "lease_end", "have_map", "have", "have_query", "node_progress", "pull_end", "goodbye", "limits_told", "limits_asked", "hub_share", "suspect", "pull_note", "placement_asked", "placement_told", "ticket_news", "secret_news", "secret_answer")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    PEER_GOSSIP_FIELD_NUMBER: _ClassVar[int]
    PULL_OFFER_FIELD_NUMBER: _ClassVar[int]
    PULL_JOIN_FIELD_NUMBER: _ClassVar[int]
    LEASE_ASK_FIELD_NUMBER: _ClassVar[int]
    LEASE_GRANT_FIELD_NUMBER: _ClassVar[int]
    LEASE_CUT_FIELD_NUMBER: _ClassVar[int]
    LEASE_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    LEASE_END_FIELD_NUMBER: _ClassVar[int]
    HAVE_MAP_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    HAVE_QUERY_FIELD_NUMBER: _ClassVar[int]
    NODE_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    PULL_END_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_TOLD_FIELD_NUMBER: _ClassVar[int]
    LIMITS_ASKED_FIELD_NUMBER: _ClassVar[int]
    HUB_SHARE_FIELD_NUMBER: _ClassVar[int]
    SUSPECT_FIELD_NUMBER: _ClassVar[int]
    PULL_NOTE_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_ASKED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_TOLD_FIELD_NUMBER: _ClassVar[int]
    TICKET_NEWS_FIELD_NUMBER: _ClassVar[int]
    SECRET_NEWS_FIELD_NUMBER: _ClassVar[int]
    SECRET_ANSWER_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    beat: Beat
    peer_gossip: PeerGossip
    pull_offer: PullOffer
    pull_join: PullJoin
    lease_ask: LeaseAsk
    lease_grant: LeaseGrant
    lease_cut: LeaseCut
    lease_progress: LeaseProgress
    lease_end: LeaseEnd
    have_map: HaveMap
    have: Have
    have_query: HaveQuery
    node_progress: NodeProgress
    pull_end: PullEnd
    goodbye: Goodbye
    limits_told: LimitsTold
    limits_asked: LimitsAsked
    hub_share: HubShare
    suspect: Suspect
    pull_note: PullNote
    placement_asked: PlacementAsked
    placement_told: PlacementTold
    ticket_news: TicketNews
    secret_news: SecretNews
    secret_answer: SecretAnswer
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., peer_gossip: _Optional[_Union[PeerGossip, _Mapping]] = ..., pull_offer: _Optional[_Union[PullOffer, _Mapping]] = ..., pull_join: _Optional[_Union[PullJoin, _Mapping]] = ..., lease_ask: _Optional[_Union[LeaseAsk, _Mapping]] = ..., lease_grant: _Optional[_Union[LeaseGrant, _Mapping]] = ..., lease_cut: _Optional[_Union[LeaseCut, _Mapping]] = ..., lease_progress: _Optional[_Union[LeaseProgress, _Mapping]] = ..., lease_end: _Optional[_Union[LeaseEnd, _Mapping]] = ..., have_map: _Optional[_Union[HaveMap, _Mapping]] = ..., have: _Optional[_Union[Have, _Mapping]] = ..., have_query: _Optional[_Union[HaveQuery, _Mapping]] = ..., node_progress: _Optional[_Union[NodeProgress, _Mapping]] = ..., pull_end: _Optional[_Union[PullEnd, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ..., limits_told: _Optional[_Union[LimitsTold, _Mapping]] = ..., limits_asked: _Optional[_Union[LimitsAsked, _Mapping]] = ..., hub_share: _Optional[_Union[HubShare, _Mapping]] = ..., suspect: _Optional[_Union[Suspect, _Mapping]] = ..., pull_note: _Optional[_Union[PullNote, _Mapping]] = ..., placement_asked: _Optional[_Union[PlacementAsked, _Mapping]] = ..., placement_told: _Optional[_Union[PlacementTold, _Mapping]] = ..., ticket_news: _Optional[_Union[TicketNews, _Mapping]] = ..., secret_news: _Optional[_Union[SecretNews, _Mapping]] = ..., secret_answer: _Optional[_Union[SecretAnswer, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "node_id", "name", "version", "addresses", "piece_port", "incarnation", "grpc_port")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PIECE_PORT_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    GRPC_PORT_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    node_id: str
    name: str
    version: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    piece_port: int
    incarnation: int
    grpc_port: int
    def __init__(self, protocol: _Optional[int] = ..., node_id: _Optional[str] = ..., name: _Optional[str] = ..., version: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., piece_port: _Optional[int] = ..., incarnation: _Optional[int] = ..., grpc_port: _Optional[int] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("memory_total_bytes", "memory_available_bytes", "disk_free_bytes", "hub_bytes_per_s", "lan_bytes_per_s", "activity", "pull_ids", "hub_used_bytes_per_s", "hub_held_back", "hub_share_bytes_per_s")
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    PULL_IDS_FIELD_NUMBER: _ClassVar[int]
    HUB_USED_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    HUB_HELD_BACK_FIELD_NUMBER: _ClassVar[int]
    HUB_SHARE_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    memory_total_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    hub_bytes_per_s: float
    lan_bytes_per_s: float
    activity: str
    pull_ids: _containers.RepeatedScalarFieldContainer[str]
    hub_used_bytes_per_s: float
    hub_held_back: bool
    hub_share_bytes_per_s: float
    def __init__(self, memory_total_bytes: _Optional[int] = ..., memory_available_bytes: _Optional[int] = ..., disk_free_bytes: _Optional[int] = ..., hub_bytes_per_s: _Optional[float] = ..., lan_bytes_per_s: _Optional[float] = ..., activity: _Optional[str] = ..., pull_ids: _Optional[_Iterable[str]] = ..., hub_used_bytes_per_s: _Optional[float] = ..., hub_held_back: _Optional[bool] = ..., hub_share_bytes_per_s: _Optional[float] = ...) -> None: ...

class PeerGossip(_message.Message):
    __slots__ = ("peers",)
    PEERS_FIELD_NUMBER: _ClassVar[int]
    peers: _containers.RepeatedCompositeFieldContainer[PeerAddress]
    def __init__(self, peers: _Optional[_Iterable[_Union[PeerAddress, _Mapping]]] = ...) -> None: ...

class PeerAddress(_message.Message):
    __slots__ = ("node_id", "name", "addresses", "piece_port")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    PIECE_PORT_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    name: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    piece_port: int
    def __init__(self, node_id: _Optional[str] = ..., name: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., piece_port: _Optional[int] = ...) -> None: ...

class PullOffer(_message.Message):
    __slots__ = ("pull_id", "manifest", "targets", "coordinator_id", "epoch", "layout", "endpoint", "revision", "age_s", "generation", "gated", "share_gated", "placement")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    TARGETS_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_FIELD_NUMBER: _ClassVar[int]
    ENDPOINT_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    GATED_FIELD_NUMBER: _ClassVar[int]
    SHARE_GATED_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    manifest: Manifest
    targets: _containers.RepeatedScalarFieldContainer[str]
    coordinator_id: str
    epoch: int
    layout: str
    endpoint: str
    revision: str
    age_s: float
    generation: int
    gated: bool
    share_gated: bool
    placement: bytes
    def __init__(self, pull_id: _Optional[str] = ..., manifest: _Optional[_Union[Manifest, _Mapping]] = ..., targets: _Optional[_Iterable[str]] = ..., coordinator_id: _Optional[str] = ..., epoch: _Optional[int] = ..., layout: _Optional[str] = ..., endpoint: _Optional[str] = ..., revision: _Optional[str] = ..., age_s: _Optional[float] = ..., generation: _Optional[int] = ..., gated: _Optional[bool] = ..., share_gated: _Optional[bool] = ..., placement: _Optional[bytes] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("hub", "repo_type", "repo", "commit", "files", "unselected")
    HUB_FIELD_NUMBER: _ClassVar[int]
    REPO_TYPE_FIELD_NUMBER: _ClassVar[int]
    REPO_FIELD_NUMBER: _ClassVar[int]
    COMMIT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    UNSELECTED_FIELD_NUMBER: _ClassVar[int]
    hub: str
    repo_type: str
    repo: str
    commit: str
    files: _containers.RepeatedCompositeFieldContainer[ManifestFile]
    unselected: _containers.RepeatedCompositeFieldContainer[ManifestFile]
    def __init__(self, hub: _Optional[str] = ..., repo_type: _Optional[str] = ..., repo: _Optional[str] = ..., commit: _Optional[str] = ..., files: _Optional[_Iterable[_Union[ManifestFile, _Mapping]]] = ..., unselected: _Optional[_Iterable[_Union[ManifestFile, _Mapping]]] = ...) -> None: ...

class ManifestFile(_message.Message):
    __slots__ = ("path", "size", "digest", "git_oid")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    GIT_OID_FIELD_NUMBER: _ClassVar[int]
    path: str
    size: int
    digest: bytes
    git_oid: bytes
    def __init__(self, path: _Optional[str] = ..., size: _Optional[int] = ..., digest: _Optional[bytes] = ..., git_oid: _Optional[bytes] = ...) -> None: ...

class PullJoin(_message.Message):
    __slots__ = ("pull_id", "epoch", "have", "checking", "want", "leases", "hub_bytes_per_s", "failed")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HAVE_FIELD_NUMBER: _ClassVar[int]
    CHECKING_FIELD_NUMBER: _ClassVar[int]
    WANT_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    epoch: int
    have: PieceSet
    checking: PieceSet
    want: PieceSet
    leases: _containers.RepeatedCompositeFieldContainer[HeldLease]
    hub_bytes_per_s: float
    failed: bool
    def __init__(self, pull_id: _Optional[str] = ..., epoch: _Optional[int] = ..., have: _Optional[_Union[PieceSet, _Mapping]] = ..., checking: _Optional[_Union[PieceSet, _Mapping]] = ..., want: _Optional[_Union[PieceSet, _Mapping]] = ..., leases: _Optional[_Iterable[_Union[HeldLease, _Mapping]]] = ..., hub_bytes_per_s: _Optional[float] = ..., failed: _Optional[bool] = ...) -> None: ...

class PieceSet(_message.Message):
    __slots__ = ("bits",)
    BITS_FIELD_NUMBER: _ClassVar[int]
    bits: bytes
    def __init__(self, bits: _Optional[bytes] = ...) -> None: ...

class HeldLease(_message.Message):
    __slots__ = ("lease_id", "first", "end", "position")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    lease_id: int
    first: int
    end: int
    position: int
    def __init__(self, lease_id: _Optional[int] = ..., first: _Optional[int] = ..., end: _Optional[int] = ..., position: _Optional[int] = ...) -> None: ...

class LeaseAsk(_message.Message):
    __slots__ = ("pull_id", "epoch", "slot", "bytes_per_s")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    epoch: int
    slot: int
    bytes_per_s: float
    def __init__(self, pull_id: _Optional[str] = ..., epoch: _Optional[int] = ..., slot: _Optional[int] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class LeaseGrant(_message.Message):
    __slots__ = ("pull_id", "epoch", "lease_id", "slot", "first", "end")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    epoch: int
    lease_id: int
    slot: int
    first: int
    end: int
    def __init__(self, pull_id: _Optional[str] = ..., epoch: _Optional[int] = ..., lease_id: _Optional[int] = ..., slot: _Optional[int] = ..., first: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class LeaseCut(_message.Message):
    __slots__ = ("pull_id", "epoch", "lease_id", "end")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    epoch: int
    lease_id: int
    end: int
    def __init__(self, pull_id: _Optional[str] = ..., epoch: _Optional[int] = ..., lease_id: _Optional[int] = ..., end: _Optional[int] = ...) -> None: ...

class LeaseProgress(_message.Message):
    __slots__ = ("pull_id", "epoch", "leases")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    epoch: int
    leases: _containers.RepeatedCompositeFieldContainer[LeasePosition]
    def __init__(self, pull_id: _Optional[str] = ..., epoch: _Optional[int] = ..., leases: _Optional[_Iterable[_Union[LeasePosition, _Mapping]]] = ...) -> None: ...

class LeasePosition(_message.Message):
    __slots__ = ("lease_id", "position", "bytes_per_s", "end")
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    lease_id: int
    position: int
    bytes_per_s: float
    end: int
    def __init__(self, lease_id: _Optional[int] = ..., position: _Optional[int] = ..., bytes_per_s: _Optional[float] = ..., end: _Optional[int] = ...) -> None: ...

class LeaseEnd(_message.Message):
    __slots__ = ("pull_id", "epoch", "lease_id", "position", "result", "retry_after_s", "detail")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_S_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    epoch: int
    lease_id: int
    position: int
    result: LeaseResult
    retry_after_s: float
    detail: str
    def __init__(self, pull_id: _Optional[str] = ..., epoch: _Optional[int] = ..., lease_id: _Optional[int] = ..., position: _Optional[int] = ..., result: _Optional[_Union[LeaseResult, str]] = ..., retry_after_s: _Optional[float] = ..., detail: _Optional[str] = ...) -> None: ...

class HaveMap(_message.Message):
    __slots__ = ("pull_id", "runs", "last", "readings")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    runs: _containers.RepeatedCompositeFieldContainer[HaveRun]
    last: bool
    readings: _containers.RepeatedCompositeFieldContainer[BlobReading]
    def __init__(self, pull_id: _Optional[str] = ..., runs: _Optional[_Iterable[_Union[HaveRun, _Mapping]]] = ..., last: _Optional[bool] = ..., readings: _Optional[_Iterable[_Union[BlobReading, _Mapping]]] = ...) -> None: ...

class Have(_message.Message):
    __slots__ = ("pull_id", "runs", "readings")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    READINGS_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    runs: _containers.RepeatedCompositeFieldContainer[HaveRun]
    readings: _containers.RepeatedCompositeFieldContainer[BlobReading]
    def __init__(self, pull_id: _Optional[str] = ..., runs: _Optional[_Iterable[_Union[HaveRun, _Mapping]]] = ..., readings: _Optional[_Iterable[_Union[BlobReading, _Mapping]]] = ...) -> None: ...

class HaveRun(_message.Message):
    __slots__ = ("first", "digests")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    DIGESTS_FIELD_NUMBER: _ClassVar[int]
    first: int
    digests: bytes
    def __init__(self, first: _Optional[int] = ..., digests: _Optional[bytes] = ...) -> None: ...

class Suspect(_message.Message):
    __slots__ = ("pull_id", "reading")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    reading: BlobReading
    def __init__(self, pull_id: _Optional[str] = ..., reading: _Optional[_Union[BlobReading, _Mapping]] = ...) -> None: ...

class BlobReading(_message.Message):
    __slots__ = ("blob", "reading")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    blob: int
    reading: int
    def __init__(self, blob: _Optional[int] = ..., reading: _Optional[int] = ...) -> None: ...

class HaveQuery(_message.Message):
    __slots__ = ("pull_id", "epoch")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    epoch: int
    def __init__(self, pull_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class NodeProgress(_message.Message):
    __slots__ = ("pull_id", "state", "bytes_wanted", "bytes_done", "bytes_from_hub", "bytes_from_peers", "hub_bytes_per_s", "peer_bytes_per_s", "error", "bytes_held", "hub_connections", "generation", "manifest", "brief", "leases")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
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
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    BRIEF_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    state: int
    bytes_wanted: int
    bytes_done: int
    bytes_from_hub: int
    bytes_from_peers: int
    hub_bytes_per_s: float
    peer_bytes_per_s: float
    error: str
    bytes_held: int
    hub_connections: int
    generation: int
    manifest: int
    brief: bool
    leases: _containers.RepeatedCompositeFieldContainer[HeldLease]
    def __init__(self, pull_id: _Optional[str] = ..., state: _Optional[int] = ..., bytes_wanted: _Optional[int] = ..., bytes_done: _Optional[int] = ..., bytes_from_hub: _Optional[int] = ..., bytes_from_peers: _Optional[int] = ..., hub_bytes_per_s: _Optional[float] = ..., peer_bytes_per_s: _Optional[float] = ..., error: _Optional[str] = ..., bytes_held: _Optional[int] = ..., hub_connections: _Optional[int] = ..., generation: _Optional[int] = ..., manifest: _Optional[int] = ..., brief: _Optional[bool] = ..., leases: _Optional[_Iterable[_Union[HeldLease, _Mapping]]] = ...) -> None: ...

class PullNote(_message.Message):
    __slots__ = ("pull_id", "generation", "text")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    generation: int
    text: str
    def __init__(self, pull_id: _Optional[str] = ..., generation: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class PullEnd(_message.Message):
    __slots__ = ("pull_id", "generation", "state", "reason")
    PULL_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    pull_id: str
    generation: int
    state: int
    reason: str
    def __init__(self, pull_id: _Optional[str] = ..., generation: _Optional[int] = ..., state: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("hub_bytes_per_s", "lan_up_bytes_per_s", "lan_down_bytes_per_s")
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_UP_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_DOWN_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    hub_bytes_per_s: int
    lan_up_bytes_per_s: int
    lan_down_bytes_per_s: int
    def __init__(self, hub_bytes_per_s: _Optional[int] = ..., lan_up_bytes_per_s: _Optional[int] = ..., lan_down_bytes_per_s: _Optional[int] = ...) -> None: ...

class ClusterLimit(_message.Message):
    __slots__ = ("hub_bytes_per_s", "version", "set_by")
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SET_BY_FIELD_NUMBER: _ClassVar[int]
    hub_bytes_per_s: int
    version: int
    set_by: str
    def __init__(self, hub_bytes_per_s: _Optional[int] = ..., version: _Optional[int] = ..., set_by: _Optional[str] = ...) -> None: ...

class LimitsTold(_message.Message):
    __slots__ = ("own", "cluster")
    OWN_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    own: Limits
    cluster: ClusterLimit
    def __init__(self, own: _Optional[_Union[Limits, _Mapping]] = ..., cluster: _Optional[_Union[ClusterLimit, _Mapping]] = ...) -> None: ...

class LimitsAsked(_message.Message):
    __slots__ = ("hub_bytes_per_s", "lan_up_bytes_per_s", "lan_down_bytes_per_s")
    HUB_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_UP_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    LAN_DOWN_BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    hub_bytes_per_s: int
    lan_up_bytes_per_s: int
    lan_down_bytes_per_s: int
    def __init__(self, hub_bytes_per_s: _Optional[int] = ..., lan_up_bytes_per_s: _Optional[int] = ..., lan_down_bytes_per_s: _Optional[int] = ...) -> None: ...

class HubShare(_message.Message):
    __slots__ = ("bytes_per_s",)
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    bytes_per_s: float
    def __init__(self, bytes_per_s: _Optional[float] = ...) -> None: ...

class TicketNews(_message.Message):
    __slots__ = ("tickets",)
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    tickets: _containers.RepeatedCompositeFieldContainer[TicketEntry]
    def __init__(self, tickets: _Optional[_Iterable[_Union[TicketEntry, _Mapping]]] = ...) -> None: ...

class TicketEntry(_message.Message):
    __slots__ = ("id", "label", "made_by", "made_at_s", "ends_at_s", "revoked")
    ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    MADE_BY_FIELD_NUMBER: _ClassVar[int]
    MADE_AT_S_FIELD_NUMBER: _ClassVar[int]
    ENDS_AT_S_FIELD_NUMBER: _ClassVar[int]
    REVOKED_FIELD_NUMBER: _ClassVar[int]
    id: str
    label: str
    made_by: str
    made_at_s: float
    ends_at_s: float
    revoked: bool
    def __init__(self, id: _Optional[str] = ..., label: _Optional[str] = ..., made_by: _Optional[str] = ..., made_at_s: _Optional[float] = ..., ends_at_s: _Optional[float] = ..., revoked: _Optional[bool] = ...) -> None: ...

class PlacementAsked(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class PlacementTold(_message.Message):
    __slots__ = ("key", "notes", "at_s")
    KEY_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    AT_S_FIELD_NUMBER: _ClassVar[int]
    key: str
    notes: str
    at_s: float
    def __init__(self, key: _Optional[str] = ..., notes: _Optional[str] = ..., at_s: _Optional[float] = ...) -> None: ...

class SecretNews(_message.Message):
    __slots__ = ("secret",)
    SECRET_FIELD_NUMBER: _ClassVar[int]
    secret: str
    def __init__(self, secret: _Optional[str] = ...) -> None: ...

class SecretAnswer(_message.Message):
    __slots__ = ("proof", "refused")
    PROOF_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    proof: bytes
    refused: str
    def __init__(self, proof: _Optional[bytes] = ..., refused: _Optional[str] = ...) -> None: ...
