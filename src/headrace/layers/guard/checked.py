"""An answer that is looked at before it is given out, word by word or whole."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable

from headrace.errors import AnswerBlocked, HeadraceError
from headrace.guards.outgoing import Outgoing, Violation
from headrace.handler import AnswerPolicy, Stream
from headrace.types import (
    Batch,
    BlockStop,
    Complete,
    Delta,
    End,
    Finish,
    Frame,
    Refusal,
    Restart,
    Text,
    ToolCall,
)

__all__ = ["Checked", "CheckedStream"]

_LOOKED_AT = frozenset({"text", "refusal", "arguments"})


class Checked:
    """Frames in, and out once all of their words have ended and were looked at; pure.

    Args:
        found: Told of each violation; what it raises is kept in `blocked`, and nothing more is given out.
    """

    __slots__ = ("_found", "_held", "_policy", "_texts", "blocked")

    def __init__(self, policy: AnswerPolicy, found: Callable[[Violation], None]) -> None:
        self._policy = policy
        self._found = found
        self._texts: dict[tuple[int, str], Outgoing] = {}
        self._held: deque[tuple[Frame, list[tuple[Outgoing, int]]]] = deque()
        self.blocked: AnswerBlocked | None = None

    def feed(self, batch: Batch) -> Batch:
        """The frames that may be given out, in their order."""
        out: Batch = []
        try:
            for frame in batch:
                self._held.append((frame, self._look(frame)))
                while self._held and all(end <= text.seen for text, end in self._held[0][1]):
                    out.append(self._held.popleft()[0])
        except AnswerBlocked as blocked:
            self._block(blocked)
        return out

    def close(self) -> Batch:
        """What is held, once nothing more comes."""
        try:
            self._end()
        except AnswerBlocked as blocked:
            self._block(blocked)
        out = [frame for frame, _ in self._held]
        self._held.clear()
        return out

    def _block(self, blocked: AnswerBlocked) -> None:
        self.blocked = blocked
        self._held.clear()

    def _look(self, frame: Frame) -> list[tuple[Outgoing, int]]:
        """The texts that `frame` makes longer, with the length up to which each must have been looked at."""
        waits: list[tuple[Outgoing, int]] = []
        for event in frame.events:
            match event:
                case Delta(index=index, kind=kind, text=text) if kind in _LOOKED_AT:
                    grown = self._text(index, kind)
                    self._tell(grown.feed(text))
                    waits.append((grown, grown.length))
                case BlockStop(index=index):
                    for looked_at in _LOOKED_AT:
                        if (done := self._texts.pop((index, looked_at), None)) is not None:
                            self._tell(done.close())
                case Complete(reply=reply):
                    for index, block in enumerate(reply.content):
                        self._whole(index, block)
                case Finish() | End() | Restart():
                    self._end()
                case _:
                    pass
        return waits

    def _end(self) -> None:
        for text in self._texts.values():
            self._tell(text.close())
        self._texts.clear()

    def _text(self, index: int, kind: str) -> Outgoing:
        text = self._texts.get((index, kind))
        if text is None:
            policy = self._policy
            text = self._texts[index, kind] = Outgoing(
                secrets=policy.secrets,
                allow=policy.allow_links,
                deny=policy.deny_links,
                max_characters=policy.max_characters if kind == "text" else None,
            )
        return text

    def _whole(self, index: int, block: object) -> None:
        match block:
            case Text(text=said) | Refusal(text=said):
                kind = "text"
            case ToolCall(arguments=said):
                kind = "arguments"
            case _:
                return
        text = self._text(index, kind)
        self._tell([*text.feed(said), *text.close()])

    def _tell(self, violations: list[Violation]) -> None:
        for violation in violations:
            self._found(violation)


class CheckedStream:
    """A stream of which a frame is given out when its words have been looked at.

    What blocks it ends it: the provider's stream is closed, and what was held is dropped.
    """

    __slots__ = ("_checked", "_ended", "_stream")

    def __init__(self, stream: Stream, checked: Checked) -> None:
        self._stream = stream
        self._checked = checked
        self._ended: Exception | None = None

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        while self._ended is None:
            try:
                batch = await anext(aiter(self._stream))
            except (HeadraceError, StopAsyncIteration) as end:
                self._ended = end
                out = self._checked.close()
            else:
                out = self._checked.feed(batch)
            if self._checked.blocked is not None:
                self._ended = self._checked.blocked
                await self._stream.aclose()
            if out:
                return out
        raise self._ended

    async def aclose(self) -> None:
        await self._stream.aclose()

    def abort(self, error: BaseException) -> None:
        """As the stream's own."""
        self._stream.abort(error)
