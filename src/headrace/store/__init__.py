"""Where requests, attempts and keys are kept: a SQLite file (`headrace.store.sqlite`), or memory.

The two behave alike and pass the same tests. The ledger is append-only: one row an attempt, never changed. What was recorded survives
the death of the process, where there is a file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from headrace.budget.leases import Balance, Charge, Demand, Hold, Leased, Worker
from headrace.call import Attempt, Call, Nanodollars
from headrace.gcra import Admission, Claim, Grant
from headrace.store.memory import MemoryStore
from headrace.store.rows import Actor, AttemptRow, AuditRow, StoredCircuit, StoredKey, StoredRequest
from headrace.store.spending import Avoided, Spend
from headrace.tickets import Claimed, Ticket

__all__ = [
    "Actor",
    "AttemptRow",
    "AuditRow",
    "Avoided",
    "MemoryStore",
    "Spend",
    "Store",
    "StoredCircuit",
    "StoredKey",
    "StoredRequest",
]


class Store(Protocol):
    """What every store does. The `record_...` methods never raise and never wait: they stand in the path of requests."""

    @property
    def dropped(self) -> int:
        """Rows that were not and will not be kept: the queue was full, the writer dead, or the store closed."""

    @property
    def errors(self) -> int:
        """Failed writes, each of them tried again while there is room; more than 0 with `dropped` 0 has lost nothing."""

    def record_start(
        self,
        call: Call,
        attempt: Attempt,
        bound: Callable[[], Nanodollars | None],
        worker: Worker | None = None,
        holds: Sequence[Hold] = (),
    ) -> None:
        """Write down that the attempt is about to be sent, so that the death of this process leaves a row for it. Does not wait.

        Args:
            bound: The most that it can cost, None for unknown; asked only where it is kept.
            worker, holds: What it has reserved of what the worker holds; `settle` ends that.

        Raises:
            StoreError: It could not be written.
        """

    def record_attempt(self, call: Call, attempt: Attempt) -> None:
        """Append the attempt, as it is now, to the ledger, and settle its `settlement`, the two together: on return the death of this
        process cannot take it back."""

    def record_call(self, call: Call) -> None:
        """Keep the call, as it is now, once it has ended; as safe as an attempt."""

    async def request(self, request_id: str, tenant: str | None) -> StoredRequest | None:
        """The request with its attempts; None if there is none, or it is another tenant's. `tenant=None` sees all.

        Of several with one id, the last. One that has attempts but no end has `status` None.
        """

    async def recent(self, limit: int) -> list[StoredRequest]:
        """The last `limit` requests that ended, the newest first, with their attempts."""

    async def spend(self, since: float, until: float, by: Sequence[str]) -> list[Spend]:
        """Attempts that began from wall time `since` and before `until`, in groups (`headrace.store.spending.DIMENSIONS`, `tag:NAME` and `WHEN`),
        ordered by the groups' values; those that were never sent are left out. With `tag` an attempt is in the group of each of its tags.

        Raises:
            StoreError: It could not be read.
        """

    async def avoided(self, since: float, until: float) -> list[Avoided]:
        """What the cache and packing saved of requests that began in that time, by route; routes where they saved nothing are left out.

        Raises:
            StoreError: It could not be read.
        """

    def key_hash(self, key: str) -> bytes:
        """HMAC-SHA256 of a presented key under this store's own secret; what `find_key` looks for."""

    async def add_key(self, key: StoredKey, hash: bytes, *, by: Actor) -> None:  # noqa: A002
        """Keep a key; it is durable on return, and so is the line in the audit log that `by` made it.

        Raises:
            Conflict: There is one with that id or hash, or one that is not revoked with that name.
            StoreError: It could not be written.
        """

    async def find_key(self, hash: bytes) -> StoredKey | None:  # noqa: A002
        """The key with that hash, revoked or not. By its former value it is found as one that expires when that does.

        Raises:
            StoreError: It could not be read.
        """

    async def list_keys(self) -> list[StoredKey]:
        """All keys, the oldest first."""

    async def revoke_key(self, key_id: str, now: float, *, by: Actor) -> bool:
        """Revoke at wall time `now`, durable on return; False if there is no such key or it was revoked before.

        Raises:
            StoreError: It could not be written.
        """

    async def rotate_key(
        self, key_id: str, new_hash: bytes, prefix: str, now: float, *, until: float, by: Actor
    ) -> bool:
        """Give the key a new value; the one it had is good until wall time `until` (`now`: no more), one before that no more.
        Durable on return. False if there is no such key or it is revoked.

        Raises:
            StoreError: It could not be written.
        """

    async def add_audit(self, row: AuditRow) -> None:
        """Append a line to the audit log: what was tried and did not come about. What does is logged with it.

        Raises:
            StoreError: It could not be written.
        """

    async def audit(self, limit: int, subject: str | None = None) -> list[AuditRow]:
        """The last `limit` lines of the audit log, the newest first; of one key (its id), or of all."""

    async def lease(self, worker: Worker, asks: Sequence[Sequence[Demand]], now: float) -> Leased:
        """Grant a worker money and tokens from budgets (`headrace.budget.leases.decide`); durable on return.

        Raises:
            StoreError: It could not be written; nothing was granted.
        """

    def settle(self, worker: Worker, charges: Sequence[Charge]) -> None:
        """Book what a worker spent and gave back, as safe as an attempt. Never raises and never waits; what is lost on the way stays
        booked as held."""

    def beat(self, worker: Worker, now: float) -> None:
        """The worker lives at wall time `now`. What those had reserved who do not is booked as spent and marked unsettled; the rest of
        what they held goes back, where the store knows what was reserved."""

    def leave(self, worker: Worker) -> None:
        """The worker ends and holds nothing."""

    async def balances(self, since: float) -> list[Balance]:
        """The budgets' counters of windows that end after wall time `since`."""

    async def admit(self, claims: Sequence[Claim], now: int) -> Admission:
        """Grant claims on rate limits or none of them (`headrace.gcra.admit`); `now` is in nanoseconds since 1970.

        Raises:
            StoreError: It could not be written; what was granted nevertheless comes back with time.
        """

    def settle_rates(self, settled: Sequence[tuple[Grant, int]], now: int) -> None:
        """Say what the request of each grant has used (`headrace.gcra.settle`). Never raises and never waits; what is lost on the way
        comes back with time."""

    def record_circuit(self, circuit: StoredCircuit) -> None:
        """Tell the other workers of a transition. Never raises and never waits."""

    async def claim_probe(self, key: str, now: float, until: float, by: str) -> bool:
        """Take the only probe of a circuit until wall time `until`; False while another worker has it.

        Raises:
            StoreError: It could not be written.
        """

    async def circuits(self, since: int) -> tuple[int, list[StoredCircuit]]:
        """The transitions after `since` (0: all), and what to pass the next time.

        Raises:
            StoreError: It could not be read.
        """

    async def append_turns(
        self, conversation: str, first: int, turns: Sequence[bytes], *, until: float
    ) -> None:
        """Add turns to a conversation from place `first` on, to be kept until wall time `until`; durable on return.

        Raises:
            StoreError: That is not its next place, since somebody else went on with it; or it could not be written.
        """

    async def turns(self, conversation: str) -> list[bytes]:
        """All turns of a conversation, in order; none if there is no such.

        Raises:
            StoreError: It could not be read.
        """

    async def delete_turns(self, conversation: str) -> int:
        """Delete a conversation; the number of its turns.

        Raises:
            StoreError: It could not be written.
        """

    async def expire_turns(self, now: float) -> int:
        """Delete conversations whose last turn's time is over at wall time `now`; how many there were.

        Raises:
            StoreError: It could not be written.
        """

    async def purge_content(self, conversation: str | None, *, tenant: str | None = None) -> int:
        """Delete a conversation (None: none), those that the gateway holds for `tenant` (named `tenant/id`), and every plan state, so that
        nothing of them is left in a file; the number of turns.

        Raises:
            StoreError: It could not be written.
        """

    def record_plan(self, key: bytes, state: bytes, *, now: float, until: float) -> None:
        """Keep until wall time `until` how far a conversation was planned (`headrace.context`). Never raises and never waits."""

    async def find_plan(self, keys: Sequence[bytes]) -> tuple[int, bytes] | None:
        """The state under the last of `keys` that has one, with that key's place among them; None if none has. At most 1,000 keys.

        Raises:
            StoreError: It could not be read.
        """

    async def claim_answer(self, ticket: Ticket, now: float, until: float) -> Claimed:
        """Take a request under an idempotency key, until wall time `until` or the death of this process; or what became of it before.

        Raises:
            StoreError: It could not be written; nothing was taken.
        """

    async def keep_answer(
        self, ticket: Ticket, body: bytes | None, *, now: float, until: float, most: int, why: str = ""
    ) -> bool:
        """Put what was answered in the place of the claim, until wall time `until`; durable on return. None: answered, and not kept for the
        reason `why`. Of all bodies at most `most` bytes are kept. False if the claim is not the ticket's any more.

        Raises:
            StoreError: It could not be written.
        """

    def release_answer(self, ticket: Ticket) -> None:
        """Let a claim go: there was no answer. Never raises and never waits."""

    def expire_answers(self, now: float) -> None:
        """Delete answers whose time is over at wall time `now`. Never raises and never waits."""

    async def purge_answers(self, tenant: str | None, user: str | None) -> int:
        """Delete the answers under idempotency keys of a tenant, a user, or a tenant's user; how many there were.

        Raises:
            StoreError: It could not be written.
        """

    async def flush(self) -> None:
        """Return when everything recorded before is durable.

        Raises:
            StoreError: It could not be written; it is kept and tried again.
        """

    async def aclose(self) -> None:
        """Write what is recorded and let go of the file; idempotent. What cannot be written is counted as dropped."""

    def ready(self) -> bool:
        """Whether the store takes records."""
