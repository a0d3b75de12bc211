"""Content blocks, of requests and answers alike."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec
from msgspec import Raw

from headrace.dialects.anthropic.details import (
    NAME,
    details_of,
    finished,
    said_false,
    spelling,
    take_cache,
    take_text,
    text_of,
    warn,
)
from headrace.dialects.wire import (
    BOOL,
    STR,
    Members,
    Wrong,
    inside,
    json,
    members_of,
    need,
    take,
    take_members,
)
from headrace.types import (
    Block,
    Details,
    Document,
    Image,
    Opaque,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

__all__ = ["decode_block", "encode_block", "encode_content", "take_content", "wire_id"]

_NO_SPACE = str.maketrans("", "", " \t\r\n")
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")
# A text that is the only block of an array, where the plain string would say the same.
_AS_BLOCK = Details(NAME, {}, {"text": "block"})
# Arguments that are no JSON object cannot stand in `input`. Under this name the model and the caller still see them.
_INVALID = "_invalid_json"
_CONTENT: msgspec.json.Decoder[Any] = msgspec.json.Decoder(str | list[Raw] | None)


def decode_block(raw: Raw, path: str) -> Block:
    members = members_of(raw, path)
    kind = need(members, "type", STR, path)
    match kind:
        case "text":
            text = need(members, "text", STR, path)
            cache = take_cache(members, path)
            return Text(text=text, cache=cache, provider_details=details_of(members))
        case "image" | "document":
            return _decode_media(kind, members, path) or Opaque(dialect=NAME, kind=kind, raw=raw)
        case "tool_use":
            return ToolCall(
                id=need(members, "id", STR, path),
                name=need(members, "name", STR, path),
                arguments=_arguments(members.pop("input", Raw(b"{}")), inside(path, "input")),
                cache=take_cache(members, path),
                provider_details=details_of(members, _take_direct(members)),
            )
        case "tool_result":
            spelled = said_false(members, "is_error")
            return ToolResult(
                call_id=need(members, "tool_use_id", STR, path),
                content=take_content(members, "content", path),
                is_error=take(members, "is_error", BOOL, path) is True,
                cache=take_cache(members, path),
                provider_details=details_of(members, spelled),
            )
        case "thinking":
            return Thinking(
                text=take_text(members, "thinking", path),
                signature=take(members, "signature", STR, path),
                provider_details=details_of(members),
            )
        case "redacted_thinking":
            data = need(members, "data", STR, path)
            return Thinking(redacted=data, provider_details=details_of(members))
        case _:
            return Opaque(dialect=NAME, kind=kind, raw=raw)


def _decode_media(kind: str, members: Members, path: str) -> Image | Document | None:
    """None for a source of a kind, or with members, that we have no place for."""
    source = take_members(members, "source", path)
    if source is None:
        raise Wrong(inside(path, "source"), "is required")
    where = inside(path, "source")
    known: dict[str, Any] = {}
    match take(source, "type", STR, where):
        case "base64":
            known["media_type"] = take(source, "media_type", STR, where)
            known["data"] = need(source, "data", STR, where)
        case "url":
            known["url"] = need(source, "url", STR, where)
        case "file":
            known["file_id"] = need(source, "file_id", STR, where)
        case "text" if kind == "document":
            known["media_type"] = take(source, "media_type", STR, where)
            known["text"] = need(source, "data", STR, where)
        case _:
            return None
    if source:
        return None
    cache = take_cache(members, path)
    if kind == "image":
        return Image(**known, cache=cache, provider_details=details_of(members))
    name = take(members, "title", STR, path)
    return Document(**known, name=name, cache=cache, provider_details=details_of(members))


def _take_direct(members: Members) -> dict[str, str]:
    """The caller of a tool that is the model itself, which goes without saying: a spelling, not a member to warn about."""
    raw = members.get("caller")
    if raw is None or text_of(raw, "caller").translate(_NO_SPACE) != '{"type":"direct"}':
        return {}
    del members["caller"]
    return {"caller": text_of(raw, "caller")}


def _arguments(raw: Raw, path: str) -> str:
    text = text_of(raw, path)
    if _INVALID in text:
        wrapped = members_of(raw, path)
        if len(wrapped) == 1 and (inner := take(wrapped, _INVALID, STR, path)) is not None:
            return inner
    return text


def take_content(members: Members, name: str, path: str) -> tuple[Block, ...]:
    """A string or an array of blocks; empty when absent."""
    content: str | list[Raw] | None = take(members, name, _CONTENT, path)
    path = inside(path, name)
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(text=content),)
    blocks = tuple(decode_block(raw, f"{path}[{index}]") for index, raw in enumerate(content))
    match blocks:
        case (Text(cache=None, provider_details=None) as only,):
            return (msgspec.structs.replace(only, provider_details=_AS_BLOCK),)
        case _:
            return blocks


def encode_block(block: Block, warnings: list[str], *, answer: bool = False) -> Any:
    """The wire form, or None for a block that is left out. `answer`: part of a reply, where clients read what the API
    itself would refuse in a request."""
    out: dict[str, Any]
    match block:
        case Text(text=text):
            if not text:
                return None
            return finished({"type": "text", "text": text}, block.cache, block.provider_details, warnings)
        case Refusal(text=text):
            return encode_block(Text(text=text, provider_details=block.provider_details), warnings)
        case ToolCall():
            out = {
                "type": "tool_use",
                # An answer keeps the id: it goes back to the server that made it, and some know their own form only.
                "id": block.id if answer else wire_id(block.id),
                "name": block.name,
                "input": _input(block, warnings),
            }
            return finished(out, block.cache, block.provider_details, warnings)
        case ToolResult():
            out = {"type": "tool_result", "tool_use_id": wire_id(block.call_id)}
            if block.content:
                out["content"] = encode_content(block.content, warnings)
            if block.is_error or spelling(block.provider_details, "is_error"):
                out["is_error"] = block.is_error
            return finished(out, block.cache, block.provider_details, warnings)
        case Thinking(redacted=str(data)):
            return finished(
                {"type": "redacted_thinking", "data": data}, None, block.provider_details, warnings
            )
        case Thinking(text=text, signature=signature):
            if not signature and not answer:
                warn(warnings, "thinking without a signature dropped")
                return None
            out = {"type": "thinking", "thinking": text, "signature": signature or ""}
            return finished(out, None, block.provider_details, warnings)
        case Image():
            return finished(
                {"type": "image", "source": _image_source(block, warnings)},
                block.cache,
                block.provider_details,
                warnings,
            )
        case Document():
            out = {"type": "document", "source": _document_source(block, warnings)}
            if block.name is not None:
                out["title"] = block.name
            return finished(out, block.cache, block.provider_details, warnings)
        case Opaque(dialect=dialect, kind=kind, raw=raw):
            if dialect == NAME:
                return raw
            warn(warnings, f"{dialect} block {kind} dropped")
            return None


def wire_id(call_id: str) -> str:
    """Anthropic takes letters, digits, `_` and `-`; some servers put dots and colons into ids."""
    return _NOT_IN_IDS.sub("_", call_id)


def _input(call: ToolCall, warnings: list[str]) -> Raw:
    """The arguments as the object that `input` must be."""
    if not call.arguments.strip():
        return Raw(b"{}")
    try:
        members_of(call.arguments.encode(), "arguments")
    except Wrong:
        pass
    else:
        return Raw(call.arguments.encode())
    warn(warnings, f"arguments of {call.name} are not a JSON object; sent as text in {_INVALID}")
    return json({_INVALID: call.arguments})


_MAGIC = {"iVBOR": "image/png", "/9j/": "image/jpeg", "R0lGOD": "image/gif", "UklGR": "image/webp"}
"""How the base64 of the image formats that Anthropic takes begins."""


def _image_source(image: Image, warnings: list[str]) -> dict[str, Any]:
    if image.detail not in (None, "auto"):
        warn(warnings, f"image detail {image.detail} dropped")
    if image.data is not None:
        kind = image.media_type
        if kind is None:
            kind = next((kind for magic, kind in _MAGIC.items() if image.data.startswith(magic)), "image/png")
        return {"type": "base64", "media_type": kind, "data": image.data}
    if image.url is not None:
        return {"type": "url", "url": image.url}
    return _file_source(image.file_id, warnings)


def _document_source(document: Document, warnings: list[str]) -> dict[str, Any]:
    kind = document.media_type
    if document.text is not None:
        return {"type": "text", "media_type": kind or "text/plain", "data": document.text}
    if document.data is not None:
        # Only PDFs go as base64; other texts go as text.
        if kind is not None and kind.startswith("text/"):
            try:
                text = base64.b64decode(document.data, validate=True).decode()
            except (binascii.Error, UnicodeDecodeError):
                pass
            else:
                return {"type": "text", "media_type": "text/plain", "data": text}
        return {"type": "base64", "media_type": kind or "application/pdf", "data": document.data}
    if document.url is not None:
        return {"type": "url", "url": document.url}
    return _file_source(document.file_id, warnings)


def _file_source(file_id: str | None, warnings: list[str]) -> dict[str, Any]:
    if file_id is not None and not file_id.startswith("file_"):
        warn(warnings, f"file id {file_id} is not one of {NAME}; sent as it is")
    return {"type": "file", "file_id": file_id or ""}


def encode_content(content: tuple[Block, ...], warnings: list[str]) -> Any:
    """A string for a lone plain text, else an array."""
    match content:
        case (Text(text=text, cache=None, provider_details=None),):
            return text
        case _:
            return [out for block in content if (out := encode_block(block, warnings)) is not None]
