"""A plan carried out: the messages that are sent; pure."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from headrace.context.log import Log
from headrace.context.plan import BLANK, Keep, Note, Plan, answers_to
from headrace.context.turn import Turn, is_bound
from headrace.types import Block, Message, Text, ToolResult

__all__ = ["Packed", "pack"]


class Packed(Struct, frozen=True):
    """Messages that are sent; `turn` is the one that they are, unchanged, or None where they were made."""

    messages: tuple[Message, ...]
    turn: int | None = None


def pack(log: Log, plan: Plan) -> list[Packed]:
    """The messages of `plan`, which is one of `log`, in order."""
    packed: list[Packed] = []
    for item in plan.items:
        match item:
            case Note(text=text):
                packed.append(Packed((Message(role="user", content=(Text(text=text),)),)))
            case Keep():
                turn = log.turns[item.turn]
                packed.append(
                    Packed(turn.messages, turn.id) if item.untouched else Packed(_changed(turn, item))
                )
                if item.missing:
                    packed.append(Packed(tuple(answers_to(item.missing))))
    return packed


def _changed(turn: Turn, item: Keep) -> tuple[Message, ...]:
    cleared = dict(item.cleared)
    before = item.before
    messages: list[Message] = []
    position = 0
    for message in turn.messages:
        blocks: list[Block] = [Text(text=BLANK)] if item.blank else []
        for block in message.content:
            if isinstance(block, ToolResult):
                if position in cleared:
                    block = msgspec.structs.replace(block, content=(Text(text=cleared[position]),))
                if position not in item.orphans:
                    blocks.append(block)
                position += 1
            elif not item.blank and not (item.unthought and is_bound(block)):
                blocks.append(block)
        if before and message.role == "user":
            blocks = _preceded(before, blocks)
            before = ""
        if blocks or not message.content:
            messages.append(msgspec.structs.replace(message, content=tuple(blocks)))
    return tuple(messages)


def _preceded(before: str, blocks: list[Block]) -> list[Block]:
    """`blocks` with text in front; one text stays one text, since some servers take nothing else."""
    match blocks:
        case [Text(cache=None) as only]:
            return [msgspec.structs.replace(only, text=before + only.text)]
        case _:
            return [Text(text=before), *blocks]
