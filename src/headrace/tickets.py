"""Requests under an idempotency key: who has claimed one, and what follows for the next who comes with it. Pure; the stores keep the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

__all__ = ["NO_ROOM", "AnswerRow", "Claimed", "Ticket", "judge"]

NO_ROOM = "room was needed for later answers"


class Ticket(Struct, frozen=True, kw_only=True):
    """One request that would be answered: `key` is the hash of the key in its scope, `fingerprint` that of what is asked, `token` unlike that of
    every other ticket. `tenant` and `user` are whose the answer is."""

    key: bytes
    fingerprint: bytes
    token: str
    tenant: str | None = None
    user: str | None = None


class Claimed(Struct, frozen=True):
    """What became of a claim: `mine`, to be answered now; `theirs`, under way; `other`, the key came with another request; `kept`, the `body` of the
    answer; `gone`, answered, and not kept for the reason `why`."""

    state: Literal["mine", "theirs", "other", "kept", "gone"]
    body: bytes = b""
    why: str = ""


class AnswerRow(Struct):
    """A claim, or with `answered` an answer; it holds until wall time `until`. `holder` is the process. Without a `body`, `why` says the reason."""

    fingerprint: bytes
    token: str
    holder: str
    until: float
    answered: bool = False
    body: bytes | None = None
    why: str | None = None


def judge(row: AnswerRow | None, fingerprint: bytes, now: float, lives: Callable[[str], bool]) -> Claimed:
    """What a request finds; pure but for `lives`, which says whether the holder of a claim does."""
    if row is None or row.until <= now or not (row.answered or lives(row.holder)):
        return Claimed("mine")
    if row.fingerprint != fingerprint:
        return Claimed("other")
    if not row.answered:
        return Claimed("theirs")
    return Claimed("gone", why=row.why or "") if row.body is None else Claimed("kept", row.body)
