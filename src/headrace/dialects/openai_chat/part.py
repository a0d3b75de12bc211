"""The parts of a message's content: text, images, files."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from headrace.dialects.openai_chat.details import (
    NAME,
    Losses,
    details_of,
    keep,
    merge,
    present,
    spelling,
    without,
)
from headrace.dialects.openai_chat.thinking import PARTS, spoken
from headrace.dialects.wire import STR, Members, Wrong, members_of, need, take, take_members
from headrace.types import Block, CacheHint, Document, Image, Opaque, Refusal, Role, Text, Thinking, Tool

__all__ = ["decode_parts", "encode_cache", "encode_part", "joined", "take_cache"]


def decode_parts(content: str | list[Raw] | None, path: str) -> list[Block]:
    if not content:
        return []
    if isinstance(content, str):
        return [Text(text=content)]
    return [_decode_part(raw, f"{path}[{index}]") for index, raw in enumerate(content)]


def _decode_part(raw: Raw, path: str) -> Block:
    part = members_of(raw, path)
    kind = need(part, "type", STR, path)
    match kind:
        case "text":
            text = need(part, "text", STR, path)
            cache, spelled = take_cache(part)
            return Text(text=text, cache=cache, provider_details=details_of(part, spelled))
        case "refusal":
            return Refusal(text=need(part, "refusal", STR, path), provider_details=details_of(part))
        case "image_url":
            image = take_members(part, "image_url", path)
            if image is None:
                raise Wrong(f"{path}.image_url", "is required")
            url = need(image, "url", STR, f"{path}.image_url")
            detail = take(image, "detail", STR, f"{path}.image_url")
            keep(part, "image_url", image)
            cache, spelled = take_cache(part)
            media_type, payload = _data_url(url) or (None, None)
            return Image(
                media_type=media_type,
                data=payload,
                url=url if payload is None else None,
                detail=detail,
                cache=cache,
                provider_details=details_of(part, spelled),
            )
        case "file":
            file = take_members(part, "file", path)
            if file is None:
                raise Wrong(f"{path}.file", "is required")
            data = take(file, "file_data", STR, f"{path}.file")
            file_id = take(file, "file_id", STR, f"{path}.file")
            name = take(file, "filename", STR, f"{path}.file")
            keep(part, "file", file)
            cache, spelled = take_cache(part)
            media_type, payload = _data_url(data or "") or (None, data)
            return Document(
                media_type=media_type,
                data=payload,
                file_id=file_id,
                name=name,
                cache=cache,
                provider_details=details_of(part, spelled),
            )
        case "thinking" if "thinking" in part:
            thought = spoken(take(part, "thinking", PARTS, path))
            return Thinking(text=thought, provider_details=details_of(part, {"thinking": "part"}))
        case _:
            return Opaque(dialect=NAME, kind=kind, raw=raw)


def take_cache(members: Members) -> tuple[CacheHint | None, dict[str, str] | None]:
    """The cache breakpoint, as OpenRouter and others take it here for Anthropic's models, and the mark that it came so."""
    raw = members.get("cache_control")
    if raw is None:
        return None, None
    match msgspec.json.decode(raw):
        case {"type": "ephemeral", "ttl": str(ttl), **rest} if not rest:
            hint = CacheHint(ttl)
        case {"type": "ephemeral", **rest} if not rest:
            hint = CacheHint()
        case _:
            return None, None
    del members["cache_control"]
    return hint, {"cache": "cache_control"}


def _data_url(url: str) -> tuple[str | None, str] | None:
    """Media type and base64 text of a plain data URL."""
    head, found, data = url.partition(";base64,")
    if not found or not head.startswith("data:") or ";" in head or "," in head:
        return None
    return head[5:] or None, data


def encode_cache(block: Text | Image | Document | Tool, losses: Losses) -> dict[str, Any]:
    """The breakpoint where it came in this dialect; OpenAI itself has none."""
    if block.cache is None:
        return {}
    if not spelling(block.provider_details, "cache", ""):
        losses.say("cache hint dropped")
        return {}
    return {"cache_control": present({"type": "ephemeral", "ttl": block.cache.ttl})}


def _encode_text(block: Text, losses: Losses) -> dict[str, Any]:
    own = losses.own(block.provider_details, "text")
    return {"type": "text", "text": block.text, **encode_cache(block, losses), **own}


def encode_part(block: Block, role: Role, losses: Losses) -> dict[str, Any] | Raw | None:
    """One part of a message's content; None where there is none for it."""
    match block:
        case Text():
            return _encode_text(block, losses)
        case Image() if role == "user":
            return _encode_image(block, losses)
        case Document() if role == "user":
            return _encode_document(block, losses)
        case Opaque(dialect=dialect, raw=raw) if dialect == NAME:
            return raw
        case Opaque(dialect=dialect, kind=kind):
            losses.say(f"{dialect} block {kind} dropped")
        case _:
            losses.say(f"{type(block).__name__.lower()} in a {role} message dropped")
    return None


def _encode_image(image: Image, losses: Losses) -> dict[str, Any] | None:
    if image.data is not None:
        url = f"data:{image.media_type or ''};base64,{image.data}"
    elif image.url is not None:
        url = image.url
    else:
        losses.say("image by file id dropped")
        return None
    own = losses.own(image.provider_details, "image")
    inner = merge(present({"url": url, "detail": image.detail}), own, "image_url")
    cache = encode_cache(image, losses)
    return {"type": "image_url", "image_url": inner, **cache, **without(own, "image_url")}


def _encode_document(document: Document, losses: Losses) -> dict[str, Any] | None:
    own = losses.own(document.provider_details, "document")
    if document.text is not None:
        losses.say("text document sent as a text part")
        head = f"{document.name}\n\n" if document.name else ""
        return {"type": "text", "text": head + document.text}
    if document.url is not None:
        losses.say("document by url dropped")
        return None
    data, name = document.data, document.name
    if data is not None and document.media_type is not None:
        data = f"data:{document.media_type};base64,{data}"
        # OpenAI refuses file data without a name; where a dialect has none, the type says what it may be called.
        name = name or f"document.{document.media_type.rpartition('/')[2]}"
    file = merge(present({"file_data": data, "file_id": document.file_id, "filename": name}), own, "file")
    return {"type": "file", "file": file, **encode_cache(document, losses), **without(own, "file")}


def joined(parts: list[dict[str, Any] | Raw]) -> str | list[dict[str, Any] | Raw]:
    """Content: plain text as a string, all else as parts."""
    if not parts:
        return ""
    if len(parts) == 1 and isinstance(parts[0], dict) and len(parts[0]) == 2 and parts[0].get("text"):
        text = parts[0]["text"]
        assert isinstance(text, str)
        return text
    return parts
