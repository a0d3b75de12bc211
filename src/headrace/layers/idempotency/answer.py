"""An answer as it is kept under an idempotency key, and as it is given again: to a caller of the gateway the very bytes that the first one got, to a
program the same reply. Pure."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from headrace.handler import Dialect, OneBatch, Request, Stream, assemble
from headrace.types import (
    Block,
    Complete,
    Details,
    Document,
    End,
    FinishReason,
    Frame,
    Image,
    Opaque,
    Refusal,
    Reply,
    Restart,
    Text,
    Thinking,
    ToolCall,
    Usage,
)

__all__ = ["Answered", "decode", "encode", "replay"]


class Answered(Struct, omit_defaults=True, kw_only=True):
    """What was answered. `call` is the id of the request that was, `at` when, in seconds since 1970; `cost` nano-dollars, None for unknown; `took`
    seconds. `wire` is the answer in the caller's dialect, `reply` that of a program, which has none."""

    call: str
    at: float
    target: str = ""
    cost: int | None = None
    took: float = 0.0
    wire: bytes | None = None
    reply: bytes = b""


class _Reply(Struct, omit_defaults=True):
    """A `Reply` whose blocks say their kinds."""

    id: str
    model: str
    content: list[tuple[str, Raw]]
    finish: FinishReason
    finish_raw: str | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None
    created: int | None = None
    provider_details: Details | None = None


_BLOCKS: dict[str, type[Block]] = {
    kind.__name__: kind for kind in (Text, Thinking, ToolCall, Refusal, Opaque, Image, Document)
}
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Answered).decode
_json = msgspec.json.Encoder().encode
_read_reply = msgspec.json.Decoder(_Reply).decode


def encode(request: Request, frames: list[Frame], *, now: float, wall: float) -> bytes:
    """The answer that `frames` are, whole, with what is said of it when it is given again. `now` is on the monotonic scale."""
    call, dialect = request.call, request.body.dialect
    answered = Answered(
        call=call.id,
        at=wall,
        target="" if call.target is None else str(call.target),
        cost=call.cost,
        took=now - call.started_at,
    )
    if dialect is None:
        answered.reply = _write_reply(assemble([event for frame in frames for event in frame.events]))
    elif request.stream:
        answered.wire = _streamed(dialect, request, frames)
    else:
        answered.wire = _whole(dialect, frames)
    return _pack(answered)


def decode(body: bytes) -> Answered:
    """Raises `msgspec.DecodeError`."""
    return _unpack(body)


def _whole(dialect: Dialect, frames: list[Frame]) -> bytes:
    if len(frames) == 1 and frames[0].raw is not None and frames[0].dialect == dialect.name:
        return frames[0].raw
    return dialect.encode_reply(assemble([event for frame in frames for event in frame.events]), [])


def _streamed(dialect: Dialect, request: Request, frames: list[Frame]) -> bytes:
    """The bytes that the caller has had; of an answer that was begun again, the last one only."""
    events = [event for frame in frames for event in frame.events]
    if any(type(event) is Restart for event in events):
        frames = [Frame((Complete(assemble(events)),))]
    call = request.call
    encoder = dialect.encoder(
        include_usage=request.wants_usage, model="" if call.target is None else str(call.target), id=call.id
    )
    pieces: list[bytes] = []
    ours = False
    for frame in frames:
        if frame.raw is not None and frame.dialect == dialect.name and not _is_whole(frame):
            pieces.append(frame.raw)  # hidden ones too: who did not ask for them has them hidden again
        else:
            ours = True
            pieces += [encoder.feed(event) for event in frame.events if type(event) is not End]
    if ours:
        pieces.append(encoder.end())
    return b"".join(pieces)


def _is_whole(frame: Frame) -> bool:
    return len(frame.events) == 1 and type(frame.events[0]) is Complete


def replay(answered: Answered, request: Request) -> Stream:
    """The answer again, for a request like the one that was answered.

    Raises:
        HeadraceError, msgspec.DecodeError, KeyError: It is not what `encode` wrote.
    """
    dialect = request.body.dialect
    if answered.wire is None or dialect is None:
        return OneBatch([Frame((Complete(_decode_reply(answered.reply)),))])
    if not request.stream:
        reply = dialect.decode_reply(answered.wire)
        return OneBatch([Frame((Complete(reply),), answered.wire, dialect.name)])
    decoder = dialect.decoder(hide_usage=not request.wants_usage)
    return OneBatch(decoder.feed(answered.wire) + decoder.close())


def _write_reply(reply: Reply) -> bytes:
    return _json(
        _Reply(
            id=reply.id,
            model=reply.model,
            content=[(type(block).__name__, Raw(_json(block))) for block in reply.content],
            finish=reply.finish,
            finish_raw=reply.finish_raw,
            stop_sequence=reply.stop_sequence,
            usage=reply.usage,
            created=reply.created,
            provider_details=reply.provider_details,
        )
    )


def _decode_reply(body: bytes) -> Reply:
    kept = _read_reply(body)
    return Reply(
        id=kept.id,
        model=kept.model,
        content=tuple(msgspec.json.decode(raw, type=_BLOCKS[kind]) for kind, raw in kept.content),
        finish=kept.finish,
        finish_raw=kept.finish_raw,
        stop_sequence=kept.stop_sequence,
        usage=kept.usage,
        created=kept.created,
        provider_details=kept.provider_details,
    )
