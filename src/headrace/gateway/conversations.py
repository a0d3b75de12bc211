"""Conversations that the gateway holds for a client, which then sends only what is new.

A request names one with `x-headrace-conversation` (`new` begins one); what is held stands before the messages of its body, and goes through the
stack as if the client had sent it all. The new messages and the answer are stored together when the answer is whole, before its last
bytes are handed on. Messages are held as they stand on the wire, so a conversation is of one dialect, and its bytes are sent again as they came.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from headrace.dialects.turns import encode_turn, join, split
from headrace.errors import Conflict, InvalidRequest, NotFound, StoreError
from headrace.handler import Dialect, Route, Stream, assemble
from headrace.types import Batch, Complete, End, Event, Message

if TYPE_CHECKING:
    from headrace.engine import Engine

__all__ = ["HEADER", "Conversations", "HeldStream", "Turns"]

HEADER = "x-headrace-conversation"
NEW = "new"

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


class _Turn(Struct):
    """A message as it stands on the wire of a dialect."""

    dialect: str
    message: Raw


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(_Turn).decode


def _name(tenant: str, id_: str) -> str:
    """What a conversation is stored under; an id has no slash."""
    return f"{tenant}/{id_}"


class Turns:
    """One request's hold on a conversation: nobody else in this process goes on with it until `release`."""

    def __init__(
        self, owner: Conversations, name: str, id_: str, dialect: Dialect, held: list[bytes]
    ) -> None:
        self.id = id_
        self.held = held
        self._owner = owner
        self._name = name
        self._dialect = dialect
        self._new: list[bytes] = []
        self._until = 0.0

    def whole(self, body: bytes, *, until: float) -> bytes:
        """`body` with what is held before its messages, which are to be kept until wall time `until`.

        Raises:
            InvalidRequest: It has no messages.
        """
        frame, self._new = split(body)
        if not self._new:
            raise InvalidRequest("messages is empty: send what is new in this conversation", param="messages")
        self._until = until
        return join(frame, [*self.held, *self._new])

    async def keep(self, events: list[Event]) -> None:
        """Store what was asked and the answer that `events` spell.

        Raises:
            Conflict: Another worker went on with the conversation meanwhile.
            StoreError: It could not be written.
        """
        answer = Message(role="assistant", content=assemble(events).content)
        said = [*self._new, *encode_turn(self._dialect, (answer,))]
        turns = [_encode(_Turn(self._dialect.name, Raw(raw))) for raw in said]
        store = self._owner.engine.store
        try:
            await store.append_turns(self._name, len(self.held), turns, until=self._until)
        except StoreError:
            if len(await store.turns(self._name)) == len(self.held):
                raise
            raise Conflict(
                f"another request went on with the conversation {self.id!r} meanwhile; this question and its answer are not in it: ask again"
            ) from None

    def release(self) -> None:
        """Let the next request go on; idempotent."""
        self._owner.busy.discard(self._name)


class Conversations:
    """What the gateway holds, by tenant and id, in the engine's store."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.busy: set[str] = set()

    async def open(self, headers: Mapping[str, str], tenant: str, dialect: Dialect, route: Route) -> Turns:
        """The conversation that a request names in its header.

        Raises:
            InvalidRequest: The name is none; the conversation is of another dialect; or the route keeps no content, or takes no messages.
            NotFound: There is none of that name, or it is over.
            Conflict: A request of this process is going on with it.
            StoreError: It cannot be read.
        """
        id_ = headers[HEADER]
        if not _ID.fullmatch(id_):
            raise InvalidRequest(
                f"{HEADER} must be {NEW!r} or the id of a conversation (1 to 128 letters, digits, - and _), not {id_[:40]!r}"
            )
        if dialect.name not in ("openai-chat", "anthropic"):
            raise InvalidRequest(f"{HEADER} is for chat requests")
        if "idempotency-key" in headers:
            raise InvalidRequest(
                f"{HEADER} and idempotency-key do not go together: a repeated request would stand behind its own answer; leave one out"
            )
        if not route.stores_content:
            raise InvalidRequest(
                f"the route {route.name!r} keeps no content, so no conversation is held; leave out {HEADER} and send all messages"
            )
        if id_ == NEW:
            id_ = f"conv_{secrets.token_hex(12)}"
            name = _name(tenant, id_)
            held: list[bytes] = []
        else:
            name = _name(tenant, id_)
            if name in self.busy:
                raise Conflict(
                    f"another request is going on with the conversation {id_!r}; ask again after its answer"
                )
        self.busy.add(name)
        try:
            if headers[HEADER] != NEW:
                held = [bytes(turn.message) for turn in await self._read(tenant, id_, dialect)]
        except BaseException:
            self.busy.discard(name)
            raise
        return Turns(self, name, id_, dialect, held)

    async def _read(self, tenant: str, id_: str, dialect: Dialect | None = None) -> Sequence[_Turn]:
        await self.engine.store.expire_turns(self.engine.clock.wall())
        turns = [_decode(turn) for turn in await self.engine.store.turns(_name(tenant, id_))]
        if not turns:
            raise NotFound(
                f"there is no conversation {id_[:128]!r}, or it is over; {HEADER}: {NEW} begins one, and the answer's header has its id"
            )
        if dialect is not None and turns[0].dialect != dialect.name:
            raise InvalidRequest(
                f"the conversation {id_!r} is of the dialect {turns[0].dialect}, not {dialect.name}: go on with it where it began"
            )
        return turns

    async def report(self, tenant: str, id_: str) -> dict[str, Any]:
        """The messages of a conversation, as requests of its dialect have them. Raises `NotFound`, `StoreError`."""
        turns = await self._read(tenant, id_)
        return {
            "id": id_,
            "object": "conversation",
            "dialect": turns[0].dialect,
            "messages": [turn.message for turn in turns],
        }

    async def delete(self, tenant: str, id_: str) -> dict[str, Any]:
        """Throw a conversation away. Raises `NotFound`, `StoreError`; `Conflict` while a request is going on with it."""
        name = _name(tenant, id_)
        if name in self.busy:
            raise Conflict(f"a request is going on with the conversation {id_!r}; delete it after its answer")
        if not await self.engine.store.delete_turns(name):
            raise NotFound(f"there is no conversation {id_[:128]!r}, or it is over")
        return {"id": id_, "object": "conversation.deleted", "deleted": True}


class HeldStream:
    """A stream whose answer is stored before its last batch is handed on."""

    def __init__(self, inner: Stream, turns: Turns) -> None:
        self._inner = inner
        self._batches = aiter(inner)
        self._turns = turns
        self._events: list[Event] = []
        self._kept = False

    def __aiter__(self) -> AsyncIterator[Batch]:
        return self

    async def __anext__(self) -> Batch:
        try:
            batch = await anext(self._batches)
        except StopAsyncIteration:
            await self._keep()
            raise
        new = [event for frame in batch for event in frame.events]
        self._events += new
        if any(type(event) in (Complete, End) for event in new):
            await self._keep()
        return batch

    async def _keep(self) -> None:
        if not self._kept:
            self._kept = True
            await self._turns.keep(self._events)

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            self._turns.release()

    def abort(self, error: BaseException) -> None:
        """See `Stream.abort`."""
        self._inner.abort(error)
