"""What a request may share an answer with: its scope, and whether it may be answered from the cache at all.

Scope before similarity. Everything that can change an answer, except the words of the last turn, goes into one hash: tenant,
route and its targets, every parameter, the system prompt, all turns before, the headers that a provider sees. Two requests of
different scopes never meet, however alike their words are; members that Headrace does not know are in scope, and only
`OUT_OF_SCOPE` is not. Pure, and in the wire's own form: nothing is translated.

Values that are personal or secret (`headrace.guards`) are in no key and no entry: they are exchanged for placeholders, and a hash of them,
made with a secret of the installation, is in the scope. So only those who wrote the same values meet, and each puts back its own.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct

from headrace.dialects.openai_chat.embeddings import NAME as EMBEDDINGS
from headrace.guards import redact
from headrace.handler import CachePolicy, Request
from headrace.types import Chat

__all__ = ["OUT_OF_SCOPE", "VERSION", "Key", "digest", "is_personal", "is_volatile", "read_key"]

VERSION = 3
"""Of the rules in this module; in every scope, so that entries made under other rules are never found."""

OUT_OF_SCOPE = frozenset({"user", "metadata", "stream", "stream_options", "prompt_cache_key"})
"""Members that say who asks and how the answer travels, not what is asked."""

LONGEST_TEXT = 16_384
"""Characters; looking through a longer last turn for values would hold up every other request: it takes 0.2 ms a thousand."""

ASK = 1_000
"""Characters at either end of a last turn in which what is asked is looked for: what is between is quoted matter."""

_PLACEHOLDER = re.compile(r"\[([A-Z][A-Z0-9_]*)_(\d+)\]")

DIGEST_BYTES = 16
"""128 bits: a collision among 10**9 keys has a probability below 10**-20."""

_SYSTEM = ("system", "developer")

_encode = msgspec.json.Encoder(order="deterministic").encode


class Key(Struct, frozen=True, kw_only=True):
    """Where a request looks for an answer.

    Attributes:
        scope: Hash of everything but the last turn's text.
        exact: Hash of the scope and that text; equal for requests that are the same JSON.
        text: The last turn's text, None where it is not one plain text or is over `LONGEST_TEXT`.
        values: What the placeholders in the answers kept for this key stand for.
        turns: Turns of the conversation before the last one, the system's not counted.
        bypass: Why the cache must not be asked, None where it may.
        volatile: The answer is soon out of date.
    """

    scope: bytes
    exact: bytes
    tenant: str
    text: str | None = None
    values: Mapping[str, str] = {}
    turns: int = 0
    bypass: str | None = None
    volatile: bool = False


def digest(*parts: bytes, secret: bytes = b"") -> bytes:
    """One hash of several byte strings, their borders included; `secret` of at most 64 bytes makes it unguessable."""
    hash_ = blake2b(digest_size=DIGEST_BYTES, key=secret)
    for part in parts:
        hash_.update(len(part).to_bytes(8, "big"))
        hash_.update(part)
    return hash_.digest()


def read_key(
    request: Request,
    policy: CachePolicy,
    *,
    documents: str = "",
    secret: bytes = b"",
    standalone: str | None = None,
) -> Key:
    """The key of `request` under `policy`; `documents` is the version of what the route quotes from, `secret` goes into all hashes; with
    `standalone` it is that of the request whose only turn, the system's aside, were that text. Pure.

    Raises:
        msgspec.DecodeError: The body is not JSON.
        ValueError: It is not a chat request.
    """
    body = request.body
    if body.wire is not None and body.dialect is not None:
        dialect = body.dialect.name
        members = msgspec.json.decode(body.wire)
        if not isinstance(members, dict):
            raise ValueError("the body is not an object")
    else:
        dialect = ""
        members = _spelled(body.chat)
    if "input" in members and dialect == EMBEDDINGS:
        return _embeddings_key(request, members, secret)
    messages = members.pop("messages", None)
    if not isinstance(messages, list) or not messages or not all(isinstance(m, dict) for m in messages):
        raise ValueError("the body has no messages")
    for name in OUT_OF_SCOPE:
        members.pop(name, None)
    messages = [_normal(message) for message in messages]
    if standalone is not None:
        first = [message for message in messages[:-1] if message.get("role") in _SYSTEM]
        messages = [*first, {**messages[-1], "content": [{"type": "text", "text": standalone}]}]
    said = _said(messages[-1])
    redacted, values = redact(said) if len(said) <= LONGEST_TEXT else (said, {})
    text, rest = None, messages[-1]
    if len(said) <= LONGEST_TEXT and _is_plain(rest):
        text = _readable(redacted, {**request.redacted, **values})
        rest = {**rest, "content": [{**rest["content"][0], "text": ""}]}
    call, route = request.call, request.route
    tenant = _tenant(call.tenant, call.key_id)
    scope = digest(
        _encode(
            [
                VERSION,
                tenant,
                route.name,
                [str(target) for target in route.cascade],
                dialect,
                request.headers,
                request.max_tokens,
                documents,
                request.redacted,
                values,
            ]
        ),
        _composed(_encode(members)),
        _composed(_encode(messages[:-1])),
        _composed(_encode(rest)),
        secret=secret,
    )
    return Key(
        scope=scope,
        exact=digest(scope, b"" if text is None else unicodedata.normalize("NFC", text).encode()),
        tenant=tenant,
        text=text,
        values=values,
        turns=sum(message.get("role") not in _SYSTEM for message in messages[:-1]),
        bypass=_bypass(members, messages, said, policy),
        volatile=is_volatile(said),
    )


def _embeddings_key(request: Request, members: dict[str, Any], secret: bytes) -> Key:
    """Vectors are of texts to the letter: nothing is normalized, and no text is kept."""
    members.pop("user", None)
    call, route = request.call, request.route
    tenant = _tenant(call.tenant, call.key_id)
    targets = [str(target) for target in route.cascade]
    where = [VERSION, tenant, route.name, targets, EMBEDDINGS, request.headers, request.redacted]
    scope = digest(_encode(where), _encode(members), secret=secret)
    return Key(scope=scope, exact=digest(scope), tenant=tenant)


def _readable(text: str, values: Mapping[str, str]) -> str:
    """`text` with its placeholders as words: `[EMAIL_1]`, which looks like code, as `EMAIL1`."""
    if not values or "[" not in text:
        return text
    return _PLACEHOLDER.sub(lambda match: f"{match[1]}{match[2]}" if match[0] in values else match[0], text)


def _tenant(tenant: str | None, key_id: str | None) -> str:
    """Whose entry it is. Without a tenant it is the key's own; the prefixes keep the kinds apart."""
    if tenant is not None:
        return f"tenant:{tenant}"
    return "library" if key_id is None else f"key:{key_id}"


def _composed(data: bytes) -> bytes:
    return data if data.isascii() else unicodedata.normalize("NFC", data.decode()).encode()


def _spelled(chat: Chat) -> dict[str, Any]:
    """A typed request as an object whose blocks say their kind."""
    members: dict[str, Any] = msgspec.json.decode(
        msgspec.json.encode(msgspec.structs.replace(chat, messages=()))
    )
    members["messages"] = [
        {
            "role": message.role,
            "name": message.name,
            "details": msgspec.json.decode(msgspec.json.encode(message.provider_details)),
            "content": [
                {
                    "type": type(block).__name__.lower(),
                    **{k: v for k, v in msgspec.json.decode(msgspec.json.encode(block)).items() if v},
                }
                for block in message.content
            ],
        }
        for message in chat.messages
    ]
    return members


def _normal(message: dict[str, Any]) -> dict[str, Any]:
    """The message with text as a list of one block: both dialects take either."""
    content = message.get("content")
    return (
        {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else message
    )


def _said(message: dict[str, Any]) -> str:
    """All text of a turn."""
    blocks = message.get("content")
    if not isinstance(blocks, list):
        return ""
    return "\n".join(
        block["text"] for block in blocks if isinstance(block, dict) and isinstance(block.get("text"), str)
    )


def _is_plain(message: dict[str, Any]) -> bool:
    """Whether a turn is one text of the user's, and nothing else."""
    content = message.get("content")
    return (
        message.get("role") == "user"
        and isinstance(content, list)
        and len(content) == 1
        and isinstance(content[0], dict)
        and content[0].get("type") == "text"
        and isinstance(content[0].get("text"), str)
    )


# --- eligibility ------------------------------------------------------------------------------------------------------

_TOOL_MEMBERS = ("tools", "functions", "mcp_servers", "web_search_options", "container")
_PLAIN = frozenset({"text", "thinking", "redacted_thinking", "refusal"})


def _bypass(
    members: Mapping[str, Any], messages: list[dict[str, Any]], said: str, policy: CachePolicy
) -> str | None:
    if any(members.get(name) for name in _TOOL_MEMBERS):
        return "tools"
    for message in messages:
        if message.get("role") in ("tool", "function") or message.get("tool_calls"):
            return "tool turn"
        for block in message.get("content") or ():
            kind = block.get("type") if isinstance(block, dict) else None
            if kind not in _PLAIN:
                return "tool turn" if kind and "tool" in str(kind) else "content beside text"
    if messages[-1].get("role") != "user":
        return "last turn is not the user's"
    if members.get("n") not in (None, 1):
        return "more than one answer"
    if members.get("logprobs") or members.get("top_logprobs") or members.get("audio"):
        return "more than text"
    temperature = members.get("temperature")
    if isinstance(temperature, int | float) and temperature > policy.max_temperature:
        return "temperature"
    if is_personal(said):
        return "personal"
    return None


_VOLATILE = re.compile(
    r"\b(weather|forecast|temperature outside|today|tonight|tomorrow|yesterday|now|currently|current|latest|recent|recently|"
    r"breaking|news|headlines|this (?:morning|afternoon|evening|week|weekend|month|year)|next (?:week|weekend|month|year)|"
    r"last (?:night|week|month|year)|right away|so far|up to date|live score|stock price|share price|exchange rate|"
    r"what time|the time|traffic|what day|the date)\b",
    re.IGNORECASE,
)

_OWN = (
    "account|accounts|address|agenda|alarm|alarms|appointment|appointments|balance|balances|basket|bill|bills|booking|bookings|"
    "calendar|cart|claim|contacts|data|deliveries|delivery|email|emails|events|flight|flights|history|inbox|invoice|invoices|"
    "itinerary|list|lists|location|mail|meeting|meetings|messages|name|notes|notifications|number|order|orders|package|parcel|"
    "password|paycheck|payslip|pin|playlist|points|prescription|prescriptions|profile|reminder|reminders|reservation|"
    "reservations|results|salary|schedule|settings|spending|statement|subscription|ticket|tickets|transactions|username"
)
_PERSONAL = re.compile(
    rf"\b(?:where|what|what's|when|when's|which|who|who's|how much|how many|how long|is|are|was|were|has|have|did|does|show|"
    rf"list|read|tell|check|track|find|give|get|display|open|look up|any)\b[^.?!]{{0,40}}\bmy (?:\w+ ){{0,2}}?(?:{_OWN})\b"
    r"|\b(?:who am i|where am i|remember me|about me|do i have|have i got|did i|was i|am i scheduled|i owe|do i owe)\b",
    re.IGNORECASE,
)


def is_volatile(text: str) -> bool:
    """Whether the answer to `text` is soon out of date: weather, news, "today"; pure. Errs towards yes."""
    return _VOLATILE.search(_ends(text)) is not None


def is_personal(text: str) -> bool:
    """Whether `text` asks for the asker's own data ("where is my order"), which no other asker may be told; pure.

    "How do I activate my card" is not: everyone gets the same answer.
    """
    return _PERSONAL.search(_ends(text)) is not None


def _ends(text: str) -> str:
    return text if len(text) <= 2 * ASK else f"{text[:ASK]}\n{text[-ASK:]}"
