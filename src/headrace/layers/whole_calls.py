"""Releases a streamed tool call only when it is whole, so that a client never acts on half of one.

Only for routes with `tool_calls = "whole"`. Text flows as ever; from the first piece of a call on everything is kept back, in its order,
until every call that began has its arguments. A death before that is an ordinary failure if nothing was released yet, and else what
the route makes of a broken stream, without the half call. A call that the output limit cut passes with its finish reason.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from headrace.call import Attempt
from headrace.clock import Clock
from headrace.errors import Malformed, ModelFailed, ProviderError, StreamBroken
from headrace.handler import Handler, Pending, Request, Stream, is_content
from headrace.types import Batch, BlockStart, BlockStop, Delta, Event, Finish, Ping, ToolCall

__all__ = ["LIMIT", "WholeCalls"]

LIMIT = 16 * 1024 * 1024
"""Characters of arguments that are kept back; the longest answers of today's models have some 500,000."""


@dataclass(frozen=True, slots=True)
class WholeCalls:
    """Returns once something can be released. Raises the `ProviderError` that came before: `ModelFailed` for arguments that are no
    JSON, or longer than `LIMIT`."""

    clock: Clock

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            if request.route.tool_calls != "whole" or not request.stream:
                return inner(request)
            return self._whole(inner, request)

        return handle

    async def _whole(self, inner: Handler, request: Request) -> Stream:
        attempt = request.attempt
        assert attempt is not None
        # What the provider ended well may still be of no use: the ledger waits for that, unless it waits for somebody above anyway.
        judges, attempt.judged = attempt.judged, False
        whole = _Whole(await inner(request), attempt, self.clock, judges=judges)
        try:
            await whole.commit()
        except BaseException:
            await whole.aclose()
            raise
        return whole


class _Whole:
    """The stream, with what is kept back of it."""

    __slots__ = ("_attempt", "_clock", "_error", "_held", "_judges", "_open", "_ready", "_size", "_stream")

    def __init__(self, stream: Stream, attempt: Attempt, clock: Clock, *, judges: bool) -> None:
        self._stream = stream
        self._attempt = attempt
        self._clock = clock
        self._judges = judges
        self._error: ModelFailed | None = None
        self._open: dict[int, list[str]] = {}
        self._size = 0
        self._held: Batch = []
        self._ready: deque[Batch] = deque()

    async def commit(self) -> None:
        """Read until content can be released."""
        try:
            async for batch in self._stream:
                released = self._sift(batch)
                if released:
                    self._ready.append(released)
                if any(is_content(event) for frame in released for event in frame.events):
                    return
                if self._error is not None:
                    raise self._error
        except StreamBroken as broken:
            raise broken.cause if broken.cause is not None else Malformed(broken.message) from broken

    def _sift(self, batch: Batch) -> Batch:
        """What may go now. A call that is over and not whole is the `_error`, after what came before it."""
        released: Batch = []
        for frame in batch:
            try:
                for event in frame.events:
                    self._see(event)
            except ModelFailed as error:
                self._spoil(error)
                self._error = error
                break
            if not self._open:
                released += self._held
                released.append(frame)
                self._held, self._size = [], 0
            elif frame.events and all(isinstance(event, Ping) for event in frame.events):
                released.append(frame)
            else:
                self._held.append(frame)
        if self._judges and not self._open:
            self._attempt.judge()
        return released

    def _see(self, event: Event) -> None:
        calls = self._open
        match event:
            case BlockStart(index=index, block=ToolCall(arguments=text)):
                calls[index] = [text]
            case Delta(index=index, kind="arguments", text=text) if index in calls:
                calls[index].append(text)
                self._size += len(text)
                if self._size > LIMIT:
                    raise ModelFailed(f"the arguments of a tool call are longer than {LIMIT:,} characters")
            case BlockStop(index=index) if index in calls and _is_whole(calls[index]):
                del calls[index]
            case Finish(reason=reason):
                self._finish(cut=reason in ("length", "context_full"))
            case _:
                pass

    def _finish(self, *, cut: bool) -> None:
        if not cut and any(not _is_whole(pieces) for pieces in self._open.values()):
            raise ModelFailed("the arguments of a tool call are no JSON object")
        self._open.clear()

    def _spoil(self, error: ProviderError) -> None:
        """The attempt was paid for, and it bought nothing; it may have ended well already."""
        attempt = self._attempt
        if attempt.outcome == "ok":
            attempt.judge(error, "broken")
        else:
            attempt.fail(error, self._clock.now(), "broken")

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self._ready:
            return self._ready.popleft()
        while self._error is None:
            try:
                batch = await anext(aiter(self._stream))
            except StopAsyncIteration:
                if self._judges:
                    self._attempt.judge()
                raise
            if released := self._sift(batch):
                return released
        await self.aclose()
        raise StreamBroken(
            f"{self._attempt.target} broke off in a tool call: {self._error.message}",
            target=str(self._attempt.target),
            cause=self._error,
        )

    async def aclose(self) -> None:
        self._held.clear()
        self._ready.clear()
        await self._stream.aclose()
        if self._judges:
            self._attempt.judge()

    def abort(self, error: BaseException) -> None:
        """As the stream's own."""
        self._stream.abort(error)


def _is_whole(pieces: list[str]) -> bool:
    """Whether the arguments are complete: a JSON object, or nothing at all for a function without any."""
    text = "".join(pieces)
    if not text.strip():
        return True
    try:
        return type(msgspec.json.decode(text)) is dict
    except (msgspec.DecodeError, RecursionError):
        return False
