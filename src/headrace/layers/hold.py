"""Keeps the beginning of a stream back, so that a death inside it is an ordinary failure: the next attempt starts anew, unseen.

Only for routes with `mid_stream = "hold"`. What it costs is the time in which those first words are generated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.errors import Malformed, StreamBroken
from headrace.handler import Handler, Pending, Request, Stream
from headrace.types import Batch, Complete, Delta, End, Finish

__all__ = ["CHARACTERS_A_TOKEN", "Hold"]

CHARACTERS_A_TOKEN = 4
"""The usual rule of thumb for English text; it only has to be good enough to hold about as much as was asked for."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Returns once `hold_tokens` have come, `hold_s` after the first content, or with the finish, whichever is first.

    Raises the `ProviderError` that broke the stream before. Time is looked at when something comes: a stream that stalls while it is
    held is a failure, and not let go.
    """

    clock: Clock

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            if request.route.mid_stream != "hold" or not request.stream:
                return inner(request)
            return self._held(inner, request)

        return handle

    async def _held(self, inner: Handler, request: Request) -> Stream:
        stream = await inner(request)
        route, now = request.route, self.clock.now
        wanted = route.hold_tokens * CHARACTERS_A_TOKEN
        until = now() + (route.hold_s or float("inf"))
        held: deque[Batch] = deque()
        characters = 0
        try:
            async for batch in stream:
                held.append(batch)
                finished = False
                for frame in batch:
                    for event in frame.events:
                        if type(event) is Delta:
                            characters += len(event.text)
                        elif isinstance(event, Finish | Complete | End):
                            finished = True
                if finished or characters >= wanted or now() >= until:
                    break
        except StreamBroken as broken:
            await stream.aclose()
            raise broken.cause if broken.cause is not None else Malformed(broken.message) from broken
        except BaseException:
            await stream.aclose()
            raise
        return _Held(held, stream)


class _Held:
    """What was held, then the rest."""

    __slots__ = ("_held", "_stream")

    def __init__(self, held: deque[Batch], stream: Stream) -> None:
        self._held = held
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        if self._held:
            return self._held.popleft()
        return await anext(aiter(self._stream))

    async def aclose(self) -> None:
        self._held.clear()
        await self._stream.aclose()

    def abort(self, error: BaseException) -> None:
        """As the stream's own: what is held is still read first."""
        self._stream.abort(error)
