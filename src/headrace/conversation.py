"""A conversation that Headrace keeps: every turn is stored, each question is asked with all of them, and the route packs what is sent.

`AsyncConversation` is the implementation, `Conversation` the same for synchronous code.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import msgspec
from msgspec import Struct

from headrace.answer import Answer, AnswerStream
from headrace.client import AsyncClient
from headrace.content import Prompt, as_messages
from headrace.context import Plan
from headrace.context.recall import Index, shipped
from headrace.context.turn import text_of
from headrace.dialects import by_name
from headrace.engine import Levels
from headrace.sync import Client, SyncAnswerStream
from headrace.types import (
    Block,
    CacheHint,
    Chat,
    Details,
    Document,
    Image,
    Message,
    Opaque,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

__all__ = ["AsyncConversation", "Conversation", "Found"]


class Found(Struct, frozen=True):
    """A turn that `search` found: its place, what it says, and a score that compares results of one search only."""

    turn: int
    message: Message
    score: float


class AsyncConversation:
    """A conversation with `model`, kept in the client's store under `id`.

    Args:
        model: As for `chat`; a route with a context table sends less of a long conversation (docs/context.md).
        id: Of a conversation to go on with, or of a new one; None makes one up. Whoever knows it can read the conversation.
        system: Instructions, the first turn of a new conversation.

    One question is asked at a time. What was asked and answered is stored together when the answer is whole; a question that failed leaves
    nothing behind. It is kept for the `retention` of the route after its last turn, and in this object alone where the route has
    `content = "hash-only"`. Without `[store] path` conversations last as long as the client.
    """

    def __init__(
        self,
        client: AsyncClient,
        model: Levels,
        *,
        id: str | None = None,  # noqa: A002
        system: str | None = None,
    ) -> None:
        self.client = client
        self.model = model
        self.id = id if id is not None else f"conv_{secrets.token_hex(12)}"
        self.plan: Plan | None = None
        """What was sent of it with the last question, and why; None before, and on a route that does not pack."""
        self._system = system
        self._turns: list[Message] | None = None
        self._index: Index | None = None
        self._indexed = 0
        self._one = asyncio.Lock()

    async def turns(self) -> list[Message]:
        """Everything said, in order, the system's turn first.

        Raises:
            StoreError: It cannot be read.
        """
        async with self._one:
            return list(await self._loaded())

    async def add(self, *messages: Message) -> None:
        """Put turns at the end without asking.

        Raises:
            StoreError: It could not be written, or somebody else went on with the conversation.
        """
        async with self._one:
            await self._keep(list(messages))

    async def ask(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
    ) -> Answer[Any]:
        """Ask with all that was said before; raises what `chat` raises, and `StoreError`."""
        async with self._one:
            new = await _said(prompt)
            held = await self._loaded()
            answer = await self.client.chat(
                self.model, [*held, *new], max_tokens=max_tokens, temperature=temperature, timeout=timeout
            )
            await self._keep([*new, Message(role="assistant", content=answer.content)])
            self.plan = answer.plan
            return answer

    @asynccontextmanager
    async def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[AnswerStream[Any]]:
        """As `ask`, answered as it comes. An answer that is left before its end is not kept."""
        async with self._one:
            new = await _said(prompt)
            held = await self._loaded()
            async with self.client.stream(
                self.model, [*held, *new], max_tokens=max_tokens, temperature=temperature, timeout=timeout
            ) as stream:
                yield stream
                if stream.whole:
                    answer = stream.final
                    await self._keep([*new, Message(role="assistant", content=answer.content)])
                    self.plan = answer.plan

    async def fork(self, turns: int | None = None) -> AsyncConversation:
        """A conversation of its own with the first `turns` turns of this one (None: all), stored at once.

        Raises:
            ValueError: There are not as many.
        """
        async with self._one:
            held = await self._loaded()
            if turns is not None and not 0 <= turns <= len(held):
                raise ValueError(f"the conversation has {len(held)} turns, not {turns}")
            fork = AsyncConversation(self.client, self.model)
            await fork.add(*held[:turns])
            return fork

    async def export(self, dialect: str = "openai-chat") -> dict[str, Any]:
        """The turns as a request of a dialect (`openai-chat`, `anthropic`) has them: `messages`, and `system` where it stands apart."""
        chat = Chat(model="", messages=tuple(await self.turns()))
        body = msgspec.json.decode(by_name(dialect).encode_request(chat, []))
        return {name: value for name, value in body.items() if name in ("system", "messages")}

    async def search(self, question: str, *, limit: int = 5) -> list[Found]:
        """The turns that have to do with `question`, the best first, as recall finds them; all turns are looked at, sent or not."""
        async with self._one:
            held = await self._loaded()
            if self._index is None:
                likeness = shipped()
                self._index = Index(None if likeness is None else likeness())
            for number in range(self._indexed, len(held)):
                self._index.add(number, "\n".join(filter(None, map(text_of, held[number].content))))
            self._indexed = len(held)
            return [
                Found(hit.turn, held[hit.turn], hit.score) for hit in self._index.search(question)[:limit]
            ]

    async def expand(self, segment: str) -> list[Message]:
        """The turns that a segment of the last plan's summary stands for, by its digest, word for word.

        Raises:
            ValueError: The last plan has no such segment.
        """
        segments = self.plan.period.segments if self.plan is not None else ()
        for part in segments:
            if part.digest == segment:
                return (await self.turns())[part.first : part.last + 1]
        raise ValueError(
            f"the last plan has no segment {segment!r}; it has: {', '.join(part.digest for part in segments)}"
        )

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _loaded(self) -> list[Message]:
        if self._turns is None:
            engine = self.client.engine
            await engine.store.expire_turns(engine.clock.wall())
            held = [_read(data) for data in await engine.store.turns(self.id)]
            if not held and self._system is not None:
                held = [Message(role="system", content=(Text(text=self._system),))]
                await self._write(0, held)
            self._turns = held
        return self._turns

    async def _write(self, first: int, new: Sequence[Message]) -> None:
        """Put turns into the store, where the route lets them be kept."""
        engine = self.client.engine
        route = self.client._route(self.model)  # noqa: SLF001  (one piece, two modules)
        if route.stores_content:
            until = engine.clock.wall() + route.retention_s
            await engine.store.append_turns(
                self.id, first, [_written(message) for message in new], until=until
            )

    async def _keep(self, new: Sequence[Message]) -> None:
        held = await self._loaded()
        await self._write(len(held), new)
        held += new


async def _said(prompt: Prompt) -> list[Message]:
    return list(await asyncio.to_thread(as_messages, prompt, None))


# --- turns as they are stored -----------------------------------------------------------------------------------------


class _Result(Struct):
    """A tool result without its content."""

    call_id: str
    is_error: bool = False
    cache: CacheHint | None = None
    provider_details: Details | None = None


class _Block(Struct, array_like=True):
    """A block with the name of its kind, which its own JSON does not say."""

    kind: str
    value: msgspec.Raw
    content: list[_Block] = []


class _Turn(Struct):
    role: str
    blocks: list[_Block]
    name: str | None = None
    provider_details: Details | None = None


_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Text, Image, Document, ToolCall, Thinking, Refusal, Opaque)
}
_encode = msgspec.json.encode


def _block(block: Block) -> _Block:
    if isinstance(block, ToolResult):
        bare = _Result(block.call_id, block.is_error, block.cache, block.provider_details)
        return _Block("ToolResult", msgspec.Raw(_encode(bare)), [_block(inner) for inner in block.content])
    return _Block(type(block).__name__, msgspec.Raw(_encode(block)))


def _unblock(stored: _Block) -> Block:
    if stored.kind == "ToolResult":
        bare = msgspec.json.decode(stored.value, type=_Result)
        return ToolResult(
            call_id=bare.call_id,
            content=tuple(map(_unblock, stored.content)),
            is_error=bare.is_error,
            cache=bare.cache,
            provider_details=bare.provider_details,
        )
    block: Block = msgspec.json.decode(stored.value, type=_KINDS[stored.kind])
    return block


def _written(message: Message) -> bytes:
    return _encode(
        _Turn(
            message.role, [_block(block) for block in message.content], message.name, message.provider_details
        )
    )


def _read(data: bytes) -> Message:
    turn = msgspec.json.decode(data, type=_Turn)
    return Message(
        role=turn.role,  # type: ignore[arg-type]  # it was one when it was written
        content=tuple(map(_unblock, turn.blocks)),
        name=turn.name,
        provider_details=turn.provider_details,
    )


# --- the synchronous face ---------------------------------------------------------------------------------------------


class Conversation:
    """`AsyncConversation` for synchronous code, over a `Client`."""

    def __init__(
        self,
        client: Client,
        model: Levels,
        *,
        id: str | None = None,  # noqa: A002
        system: str | None = None,
    ) -> None:
        self.client = client
        self.conversation = AsyncConversation(client.client, model, id=id, system=system)

    @property
    def id(self) -> str:
        """What it is kept under."""
        return self.conversation.id

    @property
    def plan(self) -> Plan | None:
        """See `AsyncConversation.plan`."""
        return self.conversation.plan

    def turns(self) -> list[Message]:
        """See `AsyncConversation.turns`."""
        return self.client.portal.run(self.conversation.turns())

    def add(self, *messages: Message) -> None:
        """See `AsyncConversation.add`."""
        self.client.portal.run(self.conversation.add(*messages))

    def ask(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
    ) -> Answer[Any]:
        """See `AsyncConversation.ask`."""
        return self.client.portal.run(
            self.conversation.ask(prompt, max_tokens=max_tokens, temperature=temperature, timeout=timeout)
        )

    @contextmanager
    def stream(
        self,
        prompt: Prompt,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        timeout: float | None = None,
    ) -> Iterator[SyncAnswerStream[Any]]:
        """See `AsyncConversation.stream`."""
        portal = self.client.portal
        asked = self.conversation.stream(
            prompt, max_tokens=max_tokens, temperature=temperature, timeout=timeout
        )
        stream = portal.run(asked.__aenter__())
        try:
            yield SyncAnswerStream(stream, portal)
        except BaseException as error:
            portal.run(asked.__aexit__(type(error), error, error.__traceback__))
            raise
        portal.run(asked.__aexit__(None, None, None))

    def fork(self, turns: int | None = None) -> Conversation:
        """See `AsyncConversation.fork`."""
        fork = Conversation(self.client, self.conversation.model)
        fork.conversation = self.client.portal.run(self.conversation.fork(turns))
        return fork

    def export(self, dialect: str = "openai-chat") -> dict[str, Any]:
        """See `AsyncConversation.export`."""
        return self.client.portal.run(self.conversation.export(dialect))

    def search(self, question: str, *, limit: int = 5) -> list[Found]:
        """See `AsyncConversation.search`."""
        return self.client.portal.run(self.conversation.search(question, limit=limit))

    def expand(self, segment: str) -> list[Message]:
        """See `AsyncConversation.expand`."""
        return self.client.portal.run(self.conversation.expand(segment))
