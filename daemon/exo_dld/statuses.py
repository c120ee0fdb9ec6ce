"""Errors of exo-dl as the gRPC status that they stand for."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc

from exo_dl.errors import ExoDlError

__all__ = ["stream", "unary"]

_Servicer = TypeVar("_Servicer")
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


async def _abort(context: Any, error: ExoDlError) -> None:
    await context.abort(grpc.StatusCode[error.status], f"{error.what}\n{error.hint}".rstrip())


def unary(
    method: Callable[[_Servicer, _Request, Any], Awaitable[_Response]],
) -> Callable[[_Servicer, _Request, Any], Awaitable[_Response]]:
    """For a servicer's method with one answer."""

    @functools.wraps(method)
    async def call(self: _Servicer, request: _Request, context: Any) -> _Response:
        try:
            return await method(self, request, context)
        except ExoDlError as error:
            await _abort(context, error)
            raise

    return call


def stream(
    method: Callable[[_Servicer, _Request, Any], AsyncIterator[_Response]],
) -> Callable[[_Servicer, _Request, Any], AsyncIterator[_Response]]:
    """For a servicer's method with a stream of answers."""

    @functools.wraps(method)
    async def call(self: _Servicer, request: _Request, context: Any) -> AsyncIterator[_Response]:
        try:
            async for response in method(self, request, context):
                yield response
        except ExoDlError as error:
            await _abort(context, error)

    return call
