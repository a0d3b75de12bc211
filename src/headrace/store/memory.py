"""The store of a process that was not told to write a file."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from headrace.budget.leases import Balance, Book, Charge, Demand, Hold, Leased, Settlement, Worker
from headrace.call import Attempt, Call, Nanodollars
from headrace.errors import Conflict, StoreError
from headrace.gcra import Admission, Claim, Counters, Grant
from headrace.store.conversations import gone_on
from headrace.store.plans import KEPT
from headrace.store.rows import (
    Actor,
    AttemptRow,
    AuditRow,
    StoredCircuit,
    StoredKey,
    StoredRequest,
    attempt_row,
    request_of,
    request_row,
)
from headrace.store.spending import Avoided, Spend, avoided_of, spend_of
from headrace.tickets import NO_ROOM, AnswerRow, Claimed, Ticket, judge

__all__ = ["MemoryStore"]


class _Entry:
    __slots__ = ("attempts", "request")

    def __init__(self) -> None:
        self.request: StoredRequest | None = None
        self.attempts: list[AttemptRow] = []

    def whole(self) -> StoredRequest:
        attempts = tuple(sorted(self.attempts, key=lambda row: row.number))
        if self.request is None:
            return request_of(attempts)
        return msgspec.structs.replace(self.request, attempts=attempts)


class MemoryStore:
    """The last `keep` requests (1 or more) with their attempts, and keys, gone with the process.

    That an old request makes room for a new one is how it works and not counted as dropped.
    """

    def __init__(self, keep: int = 1000) -> None:
        self._keep = keep
        self._entries: OrderedDict[tuple[str, str | None, float], _Entry] = OrderedDict()
        self._keys: dict[bytes, StoredKey] = {}
        self._former: dict[bytes, bytes] = {}
        self._audit: list[AuditRow] = []
        self._book = Book()
        self._counters = Counters()
        self._secret = secrets.token_bytes(32)
        self._circuits: dict[str, tuple[int, StoredCircuit]] = {}
        self._circuit_seq = 0
        self._plans: OrderedDict[bytes, bytes] = OrderedDict()
        self._conversations: dict[str, list[bytes]] = {}
        self._until: dict[str, float] = {}
        self._answers: OrderedDict[bytes, tuple[Ticket, AnswerRow]] = OrderedDict()
        self._answers_size = 0
        self._closed = False
        self._dropped = 0
        # The library may be used from several threads, each with its own loop.
        self._lock = threading.Lock()

    @property
    def dropped(self) -> int:
        return self._dropped

    @property
    def errors(self) -> int:
        return 0

    def record_start(
        self,
        call: Call,
        attempt: Attempt,
        bound: Callable[[], Nanodollars | None],
        worker: Worker | None = None,
        holds: Sequence[Hold] = (),
    ) -> None:
        if self._closed:
            raise StoreError("the store is closed")

    def record_attempt(self, call: Call, attempt: Attempt) -> None:
        with self._lock:
            if (entry := self._entry(call)) is not None:
                entry.attempts.append(attempt_row(call, attempt))
            if isinstance(attempt.settlement, Settlement):
                self._book.settle(attempt.settlement.worker, attempt.settlement.charges)

    def record_call(self, call: Call) -> None:
        with self._lock:
            if (entry := self._entry(call)) is not None:
                entry.request = request_row(call)

    def _entry(self, call: Call) -> _Entry | None:
        if self._closed:
            self._dropped += 1
            return None
        key = call.id, call.tenant, call.started_wall
        if (entry := self._entries.get(key)) is None:
            entry = self._entries[key] = _Entry()
            if len(self._entries) > self._keep:
                self._entries.popitem(last=False)
        return entry

    async def request(self, request_id: str, tenant: str | None) -> StoredRequest | None:
        with self._lock:
            for (id_, owner, _), entry in reversed(self._entries.items()):
                if id_ == request_id and tenant in (None, owner):
                    return entry.whole()
        return None

    async def recent(self, limit: int) -> list[StoredRequest]:
        with self._lock:
            ended = [entry for entry in reversed(self._entries.values()) if entry.request is not None]
            return [entry.whole() for entry in ended[:limit]]

    async def spend(self, since: float, until: float, by: Sequence[str]) -> list[Spend]:
        with self._lock:
            rows = [row for entry in self._entries.values() for row in entry.attempts]
        return spend_of(rows, since, until, by)

    async def avoided(self, since: float, until: float) -> list[Avoided]:
        with self._lock:
            requests = [entry.request for entry in self._entries.values() if entry.request is not None]
        return avoided_of(requests, since, until)

    def key_hash(self, key: str) -> bytes:
        return hmac.digest(self._secret, key.encode("utf-8", "surrogateescape"), hashlib.sha256)

    async def add_key(self, key: StoredKey, hash: bytes, *, by: Actor) -> None:  # noqa: A002
        with self._lock:
            for held, other in self._keys.items():
                named = key.name is not None and other.name == key.name and other.revoked_wall is None
                if held == hash or other.id == key.id or named:
                    raise Conflict(f"there is a key {key.name or key.id!r} already")
            self._keys[hash] = key
            self._audit.append(by.did("key.create", key.id, key.created_wall, key.summary))

    async def find_key(self, hash: bytes) -> StoredKey | None:  # noqa: A002
        with self._lock:
            if (key := self._keys.get(hash)) is not None:
                return key
            former = self._former.get(hash)
            return None if former is None else self._keys[former].by_former_value()

    async def list_keys(self) -> list[StoredKey]:
        with self._lock:
            return sorted(self._keys.values(), key=lambda key: (key.created_wall, key.id))

    async def revoke_key(self, key_id: str, now: float, *, by: Actor) -> bool:
        with self._lock:
            if (held := self._good(key_id)) is None:
                return False
            self._keys[held] = msgspec.structs.replace(self._keys[held], revoked_wall=now)
            self._audit.append(by.did("key.revoke", key_id, now))
            return True

    async def rotate_key(
        self, key_id: str, new_hash: bytes, prefix: str, now: float, *, until: float, by: Actor
    ) -> bool:
        with self._lock:
            if (held := self._good(key_id)) is None:
                return False
            lasting = until > now
            key = self._keys.pop(held)
            self._former = {old: new for old, new in self._former.items() if new != held}
            if lasting:
                self._former[held] = new_hash
            self._keys[new_hash] = msgspec.structs.replace(
                key, prefix=prefix, old_until_wall=until if lasting else None
            )
            said = f"prefix {prefix}, the former value ends in {max(0.0, until - now):g} s"
            self._audit.append(by.did("key.rotate", key_id, now, said))
            return True

    def _good(self, key_id: str) -> bytes | None:
        """The hash of the key with that id, unless it is revoked."""
        return next(
            (h for h, key in self._keys.items() if key.id == key_id and key.revoked_wall is None), None
        )

    async def add_audit(self, row: AuditRow) -> None:
        with self._lock:
            self._audit.append(row)

    async def audit(self, limit: int, subject: str | None = None) -> list[AuditRow]:
        with self._lock:
            rows = [row for row in reversed(self._audit) if subject in (None, row.subject)]
        return rows[:limit]

    async def lease(self, worker: Worker, asks: Sequence[Sequence[Demand]], now: float) -> Leased:
        if self._closed:
            raise StoreError("the store is closed")
        with self._lock:
            return self._book.lease(worker, asks)

    def settle(self, worker: Worker, charges: Sequence[Charge]) -> None:
        with self._lock:
            self._book.settle(worker, charges)

    def beat(self, worker: Worker, now: float) -> None:
        """Nobody else holds anything: workers that share budgets need a file."""

    def leave(self, worker: Worker) -> None:
        """As `beat`: there is nobody to tell."""

    async def balances(self, since: float) -> list[Balance]:
        with self._lock:
            return self._book.balances(since)

    async def admit(self, claims: Sequence[Claim], now: int) -> Admission:
        if self._closed:
            raise StoreError("the store is closed")
        with self._lock:
            return self._counters.admit(claims, now)

    def settle_rates(self, settled: Sequence[tuple[Grant, int]], now: int) -> None:
        with self._lock:
            self._counters.settle(settled, now)

    def record_circuit(self, circuit: StoredCircuit) -> None:
        with self._lock:
            self._circuits.pop(circuit.key, None)
            self._circuit_seq += 1
            self._circuits[circuit.key] = self._circuit_seq, circuit

    async def claim_probe(self, key: str, now: float, until: float, by: str) -> bool:
        held = self._circuits.get(key)
        if held is not None:
            circuit = held[1]
            if circuit.state == "half_open" and circuit.until_wall > now and circuit.by != by:
                return False
        self.record_circuit(
            StoredCircuit(key=key, state="half_open", until_wall=until, trips=0, reason="", by=by)
        )
        return True

    async def circuits(self, since: int) -> tuple[int, list[StoredCircuit]]:
        with self._lock:
            new = [(seq, circuit) for seq, circuit in self._circuits.values() if seq > since]
        return (new[-1][0] if new else since), [circuit for _, circuit in new]

    async def append_turns(
        self, conversation: str, first: int, turns: Sequence[bytes], *, until: float
    ) -> None:
        with self._lock:
            held = self._conversations.setdefault(conversation, [])
            if len(held) != first:
                raise StoreError(gone_on(conversation, len(held), first))
            held += turns
            self._until[conversation] = max(until, self._until.get(conversation, until))

    async def delete_turns(self, conversation: str) -> int:
        with self._lock:
            self._until.pop(conversation, None)
            return len(self._conversations.pop(conversation, ()))

    async def expire_turns(self, now: float) -> int:
        with self._lock:
            over = [conversation for conversation, until in self._until.items() if until <= now]
            for conversation in over:
                del self._until[conversation], self._conversations[conversation]
        return len(over)

    async def purge_content(self, conversation: str | None, *, tenant: str | None = None) -> int:
        with self._lock:
            self._plans.clear()
            gone = [
                name
                for name in self._conversations
                if name == conversation or (tenant is not None and name.startswith(f"{tenant}/"))
            ]
            for name in gone:
                self._until.pop(name, None)
            return sum(len(self._conversations.pop(name)) for name in gone)

    async def turns(self, conversation: str) -> list[bytes]:
        with self._lock:
            return list(self._conversations.get(conversation, ()))

    def record_plan(self, key: bytes, state: bytes, *, now: float, until: float) -> None:
        with self._lock:
            self._plans.pop(key, None)
            self._plans[key] = state
            if len(self._plans) > KEPT:
                self._plans.popitem(last=False)

    async def find_plan(self, keys: Sequence[bytes]) -> tuple[int, bytes] | None:
        with self._lock:
            for place in range(len(keys) - 1, -1, -1):
                if (state := self._plans.get(keys[place])) is not None:
                    return place, state
        return None

    async def claim_answer(self, ticket: Ticket, now: float, until: float) -> Claimed:
        if self._closed:
            raise StoreError("the store is closed")
        with self._lock:
            _, row = self._answers.get(ticket.key, (None, None))
            claimed = judge(row, ticket.fingerprint, now, lambda holder: True)
            if claimed.state == "mine":
                self._forget(ticket.key)
                self._answers[ticket.key] = ticket, AnswerRow(ticket.fingerprint, ticket.token, "", until)
        return claimed

    async def keep_answer(
        self, ticket: Ticket, body: bytes | None, *, now: float, until: float, most: int, why: str = ""
    ) -> bool:
        if self._closed:
            raise StoreError("the store is closed")
        self.expire_answers(now)
        with self._lock:
            _, row = self._answers.get(ticket.key, (None, None))
            if row is None or row.token != ticket.token:
                return False
            row.answered, row.until, row.body, row.why = True, until, body, why
            self._answers.move_to_end(ticket.key)
            self._answers_size += 0 if body is None else len(body)
            for _, old in self._answers.values():
                if self._answers_size <= most:
                    break
                if old.body is not None:
                    self._answers_size -= len(old.body)
                    old.body, old.why = None, NO_ROOM
        return True

    def release_answer(self, ticket: Ticket) -> None:
        with self._lock:
            _, row = self._answers.get(ticket.key, (None, None))
            if row is not None and row.token == ticket.token and not row.answered:
                self._forget(ticket.key)

    def expire_answers(self, now: float) -> None:
        with self._lock:
            for key in [key for key, (_, row) in self._answers.items() if row.until <= now]:
                self._forget(key)

    async def purge_answers(self, tenant: str | None, user: str | None) -> int:
        with self._lock:
            found = [
                ticket.key
                for ticket, _ in self._answers.values()
                if tenant in (None, ticket.tenant) and user in (None, ticket.user)
            ]
            return sum(self._forget(key) for key in found)

    def _forget(self, key: bytes) -> bool:
        """Whether it was an answer."""
        _, row = self._answers.pop(key, (None, None))
        if row is not None and row.body is not None:
            self._answers_size -= len(row.body)
        return row is not None and row.answered

    async def flush(self) -> None:
        """Nothing is ever pending."""

    async def aclose(self) -> None:
        self._closed = True

    def ready(self) -> bool:
        return not self._closed
