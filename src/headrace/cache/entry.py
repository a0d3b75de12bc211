"""An answer as it is kept, and as it is given again."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

import msgspec
from msgspec import Raw, Struct

from headrace.guards.redact import PLACEHOLDER
from headrace.types import (
    Batch,
    Block,
    Details,
    FinishReason,
    Opaque,
    OpaqueEvent,
    Refusal,
    Reply,
    Text,
    Thinking,
    Usage,
)

__all__ = ["Entry", "decode_reply", "encode_reply", "unfit"]

OVERHEAD = 600
"""Bytes that an entry takes beside its texts: objects, dictionary slots, hashes. Measured with `tracemalloc`."""


class Entry(Struct, kw_only=True):
    """One kept answer.

    Times are seconds since 1970. `body` is `encode_reply` of the answer; `vector` the encoded question under the encoder's
    version `encoder`, empty without one; `signature` what the guards need of it and `mark` what tells answers apart, made when first needed. `cost` is nano-dollars, what asking again would cost, None while unknown; `took` the seconds
    that the answer took. `agrees` is the id of the first entry that this one's answer agrees with, its own where there was none, empty without a vector. `user` and `tags` are the asker's, each `name=value`; `documents` the version of what the route quotes from.
    """

    id: str
    scope: bytes
    exact: bytes
    text: str | None
    canonical: str | None
    tenant: str
    route: str
    target: str
    created: float
    expires: float
    body: bytes
    cost: int | None
    tokens: int = 0
    took: float = 0.0
    tags: tuple[str, ...] = ()
    documents: str = ""
    hits: int = 0
    agrees: str = ""
    user: str = ""
    vector: bytes = b""
    encoder: str = ""
    signature: bytes = b""
    mark: bytes = b""

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return (
            OVERHEAD
            + len(self.body)
            + 4 * (len(self.text or "") + len(self.canonical or ""))
            + 5 * len(self.vector)
        )

    @property
    def worth(self) -> float:
        """What one hit saves, for eviction: nano-dollars; 1,000 a token where the price is unknown."""
        return float(self.cost if self.cost is not None else 1_000 * self.tokens) + 1.0


class _Kept(Struct, omit_defaults=True):
    model: str
    content: list[tuple[str, Raw]]
    finish: FinishReason
    finish_raw: str | None = None
    stop_sequence: str | None = None
    usage: Usage | None = None
    provider_details: Details | None = None


_BLOCKS: dict[str, type[Block]] = {"Text": Text, "Thinking": Thinking, "Opaque": Opaque}
_encode = msgspec.json.Encoder().encode
_decode_kept = msgspec.json.Decoder(_Kept).decode


def encode_reply(reply: Reply, exchange: Callable[[str], str] = str) -> bytes:
    """`reply` as JSON, its texts put through `exchange`; its blocks say their kinds. Only what `unfit` lets through."""
    return _encode(
        _Kept(
            model=reply.model,
            content=[
                (type(block).__name__, Raw(_encode(_changed(block, exchange)))) for block in reply.content
            ],
            finish=reply.finish,
            finish_raw=reply.finish_raw,
            stop_sequence=reply.stop_sequence,
            usage=reply.usage,
            provider_details=reply.provider_details,
        )
    )


def _changed(block: Block, change: Callable[[str], str]) -> Block:
    return (
        msgspec.structs.replace(block, text=change(block.text))
        if isinstance(block, Text | Thinking)
        else block
    )


def decode_reply(
    body: bytes,
    *,
    id: str,  # noqa: A002
    created: int,
    alike: bool,
    restore: Callable[[str], str] = str,
) -> Reply:
    """The answer again, under a new id, its texts put through `restore`. With `alike` it goes to another question than it was given to: what belongs to that
    one exchange (thinking, signatures, a provider's own members) stays behind.

    Raises:
        msgspec.DecodeError, KeyError: `body` is not what `encode_reply` wrote.
    """
    kept = _decode_kept(body)
    blocks = tuple(
        _changed(msgspec.json.decode(raw, type=_BLOCKS[kind]), restore) for kind, raw in kept.content
    )
    if alike:
        blocks = tuple(Text(text=block.text) for block in blocks if isinstance(block, Text))
    return Reply(
        id=id,
        model=kept.model,
        content=blocks,
        finish=kept.finish,
        finish_raw=kept.finish_raw,
        stop_sequence=kept.stop_sequence,
        usage=kept.usage,
        created=created,
        provider_details=None if alike else kept.provider_details,
    )


_SORRY = re.compile(
    r"\s*(?:(?:i['’]m|i am|we['’]re|we are) (?:very |really |so |truly )?sorry|sorry|apologies|i apologi[sz]e|my apologies|"  # noqa: RUF001
    r"(?:unfortunately,? )?i(?: can['’]?(?:no)?t|['’]m (?:unable|not able)| am (?:unable|not able)| won['’]t)|as an ai|"  # noqa: RUF001
    r"(?:an |internal |server )*error\b|something went wrong|service unavailable|too many requests|rate limit)",
    re.IGNORECASE,
)
"""How an answer begins that is none: a refusal in the model's own words, or an error that came dressed as an answer."""


def unfit(
    reply: Reply, batches: list[Batch], *, max_bytes: int, placeholders: Collection[str] = ()
) -> str | None:
    """Why `reply` must not be kept, or None; pure. `batches` are the frames it was made from, `placeholders` what will stand in it
    for values, and so must not be there yet."""
    if reply.content and all(
        isinstance(block, Opaque) and block.kind == "embedding" for block in reply.content
    ):
        size = sum(len(bytes(block.raw)) for block in reply.content if isinstance(block, Opaque))
        return "too large" if size > max_bytes else None
    if reply.finish not in ("stop", "stop_sequence"):
        return f"finish {reply.finish}"
    for block in reply.content:
        if isinstance(block, Refusal):
            return "refusal"
        if not isinstance(block, Text | Thinking):
            return "content beside text"
    text = reply.text
    if not text.strip():
        return "empty"
    if _SORRY.match(text):
        return "refusal or error in words"
    if any(isinstance(event, OpaqueEvent) for batch in batches for frame in batch for event in frame.events):
        return "events that cannot be given again"
    if placeholders and any(match[0] in placeholders for match in PLACEHOLDER.finditer(text)):
        return "placeholders of its own"
    if len(text.encode()) > max_bytes:
        return "too large"
    return None
