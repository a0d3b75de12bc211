"""Starts a broken answer anew at the next target, with a marker between the two.

Only for routes with `mid_stream = "restart"`. The caller has seen the beginning of another answer by then: the marker tells it to
forget that. The rest of the cascade and of the deadline is what is left; no target gets more attempts than its level has.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from headrace.clock import Clock
from headrace.errors import HeadraceError, StreamBroken
from headrace.handler import Handler, Pending, Request, Stream
from headrace.types import Batch, Frame, Restart

__all__ = ["RestartStreams"]


@dataclass(frozen=True, slots=True)
class RestartStreams:
    """Stands above the cascade, and asks it again with the levels behind the one that broke."""

    clock: Clock

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            if request.route.mid_stream != "restart" or not request.stream:
                return inner(request)
            return self._restarting(inner, request)

        return handle

    async def _restarting(self, inner: Handler, request: Request) -> Stream:
        return _Restarting(await inner(request), inner, request, self.clock)


class _Restarting:
    """The stream of a request that may break and start anew."""

    __slots__ = ("_clock", "_closed", "_inner", "_request", "_stream")

    def __init__(self, stream: Stream, inner: Handler, request: Request, clock: Clock) -> None:
        self._stream = stream
        self._inner = inner
        self._request = request
        self._clock = clock
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        try:
            return await anext(aiter(self._stream))
        except StreamBroken as broken:
            await self._stream.aclose()
            return await self._again(broken)

    async def _again(self, broken: StreamBroken) -> Batch:
        request, target = self._request, self._request.call.target
        rest = () if target is None else request.route.behind(target)
        if not rest or self._closed or self._clock.now() >= request.deadline:
            raise broken
        route = msgspec.structs.replace(request.route, cascade=rest)
        self._request = request = msgspec.structs.replace(request, route=route)
        try:
            stream = await self._inner(request)
        except HeadraceError as failed:
            raise broken from failed
        if self._closed:
            await stream.aclose()
            raise StopAsyncIteration
        self._stream = stream
        cause = "malformed" if broken.cause is None else broken.cause.kind
        return [Frame((Restart(str(request.call.target), cause),))]

    async def aclose(self) -> None:
        self._closed = True
        await self._stream.aclose()

    def abort(self, error: BaseException) -> None:
        """As the stream's own; an abort is an end like others, and may start another answer."""
        self._stream.abort(error)
