"""What a user writes as a prompt, made into messages: strings, files, bytes, blocks, and turns with roles."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast, get_args

from headrace.errors import InvalidRequest
from headrace.types import (
    Block,
    Document,
    Image,
    Message,
    Opaque,
    Refusal,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

__all__ = ["Part", "Prompt", "as_messages", "assistant", "file_block", "system", "tool_result", "user"]

Part: TypeAlias = str | Path | bytes | Block
"""Text, a file (image, PDF or text) by path or by its bytes, or a block."""

Prompt: TypeAlias = str | Sequence["Part | Message | Mapping[str, object]"]
"""One user turn (a string, or parts), or a conversation: messages, or mappings with `role` and `content`."""

_BLOCKS = (Text, Image, Document, ToolCall, ToolResult, Thinking, Refusal, Opaque)
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_TEXT_LIMIT = 10 * 1024 * 1024


def media_type(data: bytes) -> str | None:
    """The type that the first bytes tell (PNG, JPEG, GIF, WebP, PDF), or None."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for signature, kind in _SIGNATURES if data.startswith(signature)), None)


def file_block(data: bytes, name: str | None = None) -> Block:
    """A file's bytes as a block: an image, a PDF, or UTF-8 text.

    Raises:
        InvalidRequest: It is none of these.
    """
    kind = media_type(data)
    if kind is None:
        try:
            text = data[:_TEXT_LIMIT].decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"{name or 'the file'} is neither PNG, JPEG, GIF, WebP, PDF nor UTF-8 text (it begins with {data[:8]!r})"
            ) from None
        return Document(media_type="text/plain", text=text, name=name)
    encoded = base64.b64encode(data).decode("ascii")
    if kind == "application/pdf":
        return Document(media_type=kind, data=encoded, name=name)
    return Image(media_type=kind, data=encoded)


def _block(part: object) -> Block:
    if isinstance(part, str):
        return Text(text=part)
    if isinstance(part, Path):
        try:
            return file_block(part.read_bytes(), part.name)
        except OSError as error:
            raise InvalidRequest(f"{str(part)!r} cannot be read: {error.strerror}") from error
    if isinstance(part, bytes):
        return file_block(part)
    if isinstance(part, _BLOCKS):
        return part
    raise InvalidRequest(
        f"a part of a message is text, a path, bytes or a block, not {type(part).__name__}: {part!r:.80}"
    )


def _blocks(content: object) -> tuple[Block, ...]:
    if isinstance(content, (str, Path, bytes, *_BLOCKS)):
        return (_block(content),)
    if isinstance(content, Sequence):
        return tuple(_block(part) for part in content)
    raise InvalidRequest(f"a message's content is text or a list of parts, not {type(content).__name__}")


def _message(item: object) -> Message:
    if isinstance(item, Message):
        return item
    assert isinstance(item, Mapping)
    unknown = set(item) - {"role", "content", "name"}
    role, name = item.get("role"), item.get("name")
    if role not in get_args(Role) or "content" not in item or unknown:
        raise InvalidRequest(
            f"a message as a mapping has 'role' ({', '.join(get_args(Role))}) and 'content', not {sorted(map(str, item))} with role {role!r}"
        )
    return Message(
        role=cast(Role, role), content=_blocks(item["content"]), name=name if isinstance(name, str) else None
    )


def as_messages(prompt: Prompt, system_text: str | None = None) -> tuple[Message, ...]:
    """`prompt` as messages, `system_text` in front. Reads the files that it names.

    Raises:
        InvalidRequest: A part that is none of the above, a file that cannot be read, no content at all.
    """
    front = () if system_text is None else (system(system_text),)
    if isinstance(prompt, str):
        return (*front, user(prompt))
    if not isinstance(prompt, Sequence):
        raise InvalidRequest(
            f"a prompt is a string, parts, or messages, not {type(prompt).__name__}: {prompt!r:.80}"
        )
    if not prompt:
        raise InvalidRequest("the prompt is empty: give a string, parts, or messages")
    turns = [item for item in prompt if isinstance(item, Message | Mapping)]
    if not turns:
        return (*front, Message(role="user", content=_blocks(prompt)))
    if len(turns) != len(prompt):
        raise InvalidRequest("a prompt is either parts of one turn or a list of messages, not both")
    return (*front, *(_message(item) for item in turns))


def user(*parts: Part) -> Message:
    """A user's turn."""
    return Message(role="user", content=_blocks(parts))


def assistant(*parts: Part) -> Message:
    """The model's turn."""
    return Message(role="assistant", content=_blocks(parts))


def system(*parts: Part) -> Message:
    """A system message."""
    return Message(role="system", content=_blocks(parts))


def tool_result(call_id: str, *parts: Part, is_error: bool = False) -> Message:
    """What a tool answered to the call with `call_id`."""
    return Message(
        role="tool", content=(ToolResult(call_id=call_id, content=_blocks(parts), is_error=is_error),)
    )
