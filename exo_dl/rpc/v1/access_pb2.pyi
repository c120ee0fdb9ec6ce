from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReaderTicket(_message.Message):
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

class MakeTicketRequest(_message.Message):
    __slots__ = ("days", "label")
    DAYS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    days: float
    label: str
    def __init__(self, days: _Optional[float] = ..., label: _Optional[str] = ...) -> None: ...

class MakeTicketResponse(_message.Message):
    __slots__ = ("ticket", "pem")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    PEM_FIELD_NUMBER: _ClassVar[int]
    ticket: ReaderTicket
    pem: str
    def __init__(self, ticket: _Optional[_Union[ReaderTicket, _Mapping]] = ..., pem: _Optional[str] = ...) -> None: ...

class ListTicketsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListTicketsResponse(_message.Message):
    __slots__ = ("tickets",)
    TICKETS_FIELD_NUMBER: _ClassVar[int]
    tickets: _containers.RepeatedCompositeFieldContainer[ReaderTicket]
    def __init__(self, tickets: _Optional[_Iterable[_Union[ReaderTicket, _Mapping]]] = ...) -> None: ...

class RevokeTicketRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RevokeTicketResponse(_message.Message):
    __slots__ = ("ticket",)
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ticket: ReaderTicket
    def __init__(self, ticket: _Optional[_Union[ReaderTicket, _Mapping]] = ...) -> None: ...

class RotateSecretRequest(_message.Message):
    __slots__ = ("without", "alone")
    WITHOUT_FIELD_NUMBER: _ClassVar[int]
    ALONE_FIELD_NUMBER: _ClassVar[int]
    without: _containers.RepeatedScalarFieldContainer[str]
    alone: bool
    def __init__(self, without: _Optional[_Iterable[str]] = ..., alone: _Optional[bool] = ...) -> None: ...

class RotateSecretResponse(_message.Message):
    __slots__ = ("cluster_id", "moved", "left_behind")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    LEFT_BEHIND_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    moved: _containers.RepeatedScalarFieldContainer[str]
    left_behind: _containers.RepeatedCompositeFieldContainer[LeftBehind]
    def __init__(self, cluster_id: _Optional[str] = ..., moved: _Optional[_Iterable[str]] = ..., left_behind: _Optional[_Iterable[_Union[LeftBehind, _Mapping]]] = ...) -> None: ...

class LeftBehind(_message.Message):
    __slots__ = ("name", "reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    reason: str
    def __init__(self, name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class JoinClusterRequest(_message.Message):
    __slots__ = ("secret",)
    SECRET_FIELD_NUMBER: _ClassVar[int]
    secret: str
    def __init__(self, secret: _Optional[str] = ...) -> None: ...

class JoinClusterResponse(_message.Message):
    __slots__ = ("cluster_id", "changed")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    changed: bool
    def __init__(self, cluster_id: _Optional[str] = ..., changed: _Optional[bool] = ...) -> None: ...
