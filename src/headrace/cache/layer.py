"""Answers a request from the cache, or asks once for all who ask the same, and keeps what is worth keeping.

The tiers, in order: the same request; the same words; words that mean the same, where the route says `semantic`. Whatever fails in
here (encoder, index, store, a body that cannot be read) is a miss: the request goes on as if there were no cache.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

import msgspec

from headrace.cache.aid import Aid, Aided
from headrace.cache.audits import Audit, Audits, Scale, made_by
from headrace.cache.bound import Ruling
from headrace.cache.counts import Counts
from headrace.cache.entry import Entry, decode_reply, encode_reply, unfit
from headrace.cache.key import Key, read_key
from headrace.cache.selection import Selection
from headrace.cache.shelf import Shelf
from headrace.cache.text import canonical
from headrace.call import Cached, Call
from headrace.clock import Clock
from headrace.guards.redact import exchanger, restore
from headrace.handler import CachePolicy, Handler, OneBatch, Request, Route, Stream, assemble
from headrace.singleflight import Flights
from headrace.types import Batch, Complete, Frame

__all__ = ["Cache", "Found", "Kept", "Likeness"]

logger = logging.getLogger("headrace.cache")

JITTER = 0.1
"""The part of a lifetime that is drawn by lot, so that what was made together does not end together."""

LONGEST_FLIGHT_S = 3_600.0
"""How long an answer may be on its way while a purge is remembered for it."""

RENEWED = 5_000
"""Entries whose vectors are made again at a start with another encoder: a second's work."""

AUDITED = "audited"
"""Why an entry that was found was not given."""

Landed: TypeAlias = Callable[[Request, list[Batch]], None]

_REPLY_IDS = {"openai-chat": "chatcmpl-", "anthropic": "msg_"}


class Kept(Protocol):
    """Where entries outlive the process; `errors` counts what failed."""

    errors: int

    def on_loop(self) -> None: ...

    def put(self, entry: Entry) -> None: ...

    def hit(self, entry: Entry) -> None: ...

    def remove(self, ids: list[str]) -> None: ...

    def purge(self, selection: Selection) -> None: ...

    def audit(self, audit: Audit) -> None: ...


class Found(msgspec.Struct, frozen=True):
    """What likeness says: the entry to serve, None for none, with its probability; the guards that turned others down; the `nearest` that none did."""

    entry: Entry | None
    p: float | None
    tau: float | None
    state: str
    vetoes: tuple[str, ...]
    nearest: Entry | None = None


class Near(Protocol):
    """An entry that is near: its cosine, the guard that turned it down, its probability where that was asked."""

    @property
    def entry(self) -> Entry: ...
    @property
    def cosine(self) -> float: ...
    @property
    def veto(self) -> str | None: ...
    @property
    def p(self) -> float | None: ...


class Likeness(Scale, Protocol):
    """The semantic tier."""

    def prepare(self, entry: Entry) -> None:
        """Give an entry that has a text its vector and the encoder's version."""

    def learn(self, entry: Entry, shelf: Shelf) -> None:
        """Compare the answer of a prepared entry, not yet on the shelf, with those of its neighbours."""

    def find(self, key: Key, shelf: Shelf, ruling: Ruling, *, fresh: Callable[[Entry], bool]) -> Found:
        """The best entry of the key's scope, to be served as `ruling` allows."""

    def same(self, kept: Entry, fresh: Entry) -> bool:
        """Whether the answers of two prepared entries say the same."""

    def tighten(self, entry: Entry) -> None:
        """Ask for more around a prepared entry, whose question nearly got a wrong answer."""

    def candidates(
        self, text: str, scope: bytes, shelf: Shelf, *, fresh: Callable[[Entry], bool]
    ) -> Sequence[Near]:
        """The nearest entries of the scope with what is made of each, the nearest first."""

    def why_not(self, key: Key) -> str | None:
        """Why a question of this kind is not matched by likeness, neither asked nor answered; None where it is."""


class Cache:
    """The layer.

    Args:
        likeness: The semantic tier; None without.
        aid: Parts of one's own that are asked where those found nothing.
        kept: Where entries outlive the process; None for nowhere.
        secret: At most 64 bytes that go into all hashes, so that nobody can guess what was asked from a file of them.
        documents: The version of the documents that a route quotes from, by route; an answer is of one version.
        random: Uniform on [0, 1).
    """

    def __init__(
        self,
        clock: Clock,
        shelf: Shelf,
        *,
        random: Callable[[], float],
        likeness: Likeness | None = None,
        aid: Aid | None = None,
        kept: Kept | None = None,
        documents: Mapping[str, str] | None = None,
        secret: bytes = b"",
        new_id: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.shelf = shelf
        self.flights = Flights(clock)
        self.failures = 0
        self.counts = Counts()
        self._purged: list[tuple[float, Selection]] = []
        self._secret = secret
        self._documents = dict(documents or {})
        self.clock = clock
        self._random = random
        self.likeness = likeness
        self._audits: Audits | None = None
        self.aid = aid if aid is not None else Aid()
        self._kept = kept
        self._new_id = new_id

    def __call__(self, inner: Handler) -> Handler:
        async def handle(request: Request) -> Stream:
            policy = request.route.cache
            if policy is None or request.call.purpose != "answer":
                return await inner(request)
            try:
                return await self._through(inner, request, policy)
            finally:
                self.counts.note(request.call)

        return handle

    async def aclose(self) -> None:
        """Cancel what is under way."""
        await self.flights.aclose()

    async def _through(self, inner: Handler, request: Request, policy: CachePolicy) -> Stream:
        call = request.call
        key = self._key(request, policy)
        if key is None or key.bypass is not None:
            call.cached = Cached(why="the request cannot be read" if key is None else key.bypass or "")
            return await inner(request)
        directives = {part.strip().lower() for part in request.cache_control.split(",")}
        if "no-store" in directives:
            call.cached = Cached(why="no-store")
            return await inner(request)
        if "no-cache" in directives:
            call.cached = Cached(why="no-cache")
            stream, _ = await self.flights.board(
                key.exact + self._new_id().encode(), request, inner, self._landing(key, policy)
            )
            return stream
        stream_found = self.lookup(key, request, policy)
        if stream_found is not None:
            return stream_found
        landed = self._landing(key, policy)
        found = call.cached
        if found is not None and found.why == AUDITED:
            landed, inner = self._auditing(key, policy, found), _for_audit(inner)
        elif self.aid.helps(request.route):
            aided = Aided(self, key, policy, inner)
            inner, landed = aided, self._guarded(aided.landed)
        passenger, leads = await self.flights.board(key.exact, request, inner, landed)
        if not leads:
            call.cache = "hit-exact"
            call.cached = Cached(tier="flight", target=str(passenger.target or ""))
        return passenger

    def _key(self, request: Request, policy: CachePolicy) -> Key | None:
        try:
            if self._kept is not None:
                self._kept.on_loop()
            documents = self._documents.get(request.route.name, "")
            return read_key(request, policy, documents=documents, secret=self._secret)
        except (ValueError, msgspec.MsgspecError):  # whoever is asked next says what is wrong with the body
            return None
        except Exception:  # noqa: BLE001  (a miss is always possible)
            self.failed("reading a request")
            return None

    # --- looking ------------------------------------------------------------------------------------------------------

    def lookup(self, key: Key, request: Request, policy: CachePolicy) -> Stream | None:
        """The kept answer for `key` as a stream, None for a miss; says in the call what it found. Never raises."""
        call = request.call
        call.cache = "miss"
        call.cached = Cached()
        try:
            found = self.find(key, policy, request.route, draws=True)
            call.cached = found[1]
            if found[0] is None:
                return None
            stream = self.replay(found[0], found[1], call, key)
        except Exception:  # noqa: BLE001  (a miss is always possible)
            self.failed("looking up")
            return None
        call.cache = f"hit-{found[1].tier}"
        return stream

    def find(
        self, key: Key, policy: CachePolicy, route: Route, *, draws: bool = False
    ) -> tuple[Entry | None, Cached]:
        """The entry that answers `key`, and how it was found or why not; with `draws` also by lot, for the sake of an audit."""
        started, wall = self.clock.now(), self.clock.wall()

        def fresh(entry: Entry) -> bool:
            if entry.expires > wall:
                return True
            self._drop([entry.id])
            return False

        entry = self.shelf.exact(key.exact)
        if entry is not None and fresh(entry):
            return entry, self._cached("exact", entry, wall)
        if key.text is None:
            return None, Cached()
        entry = self.shelf.canonical(key.scope, canonical(key.text))
        if entry is not None and fresh(entry):
            return entry, self._cached("canonical", entry, wall)
        likeness = self.likeness
        if likeness is None or not policy.semantic or policy.max_wrong <= 0:
            return None, Cached()
        unfit_for = likeness.why_not(key)
        if unfit_for is not None:
            return None, Cached(why=f"not matched by likeness: {unfit_for}")
        ruling = self.ruling(route, policy)
        found = likeness.find(key, self.shelf, ruling, fresh=fresh)
        if found.entry is not None and self.clock.now() - started > policy.lookup_s:
            return None, Cached(why="lookup too slow", state=found.state)
        cached = Cached(p=found.p, tau=found.tau, state=found.state, vetoes=found.vetoes)
        if draws and found.nearest is not None and self._drawn(found, route, policy, ruling):
            return None, msgspec.structs.replace(cached, why=AUDITED, entry=found.nearest.id)
        if found.entry is None:
            return None, cached
        hit = self._cached("semantic", found.entry, wall)
        return found.entry, msgspec.structs.replace(
            hit, p=found.p, tau=found.tau, state=found.state, vetoes=found.vetoes
        )

    @property
    def audits(self) -> Audits:
        """What audits said with the likeness that there is."""
        if self._audits is None:
            if self.likeness is None:
                raise ValueError("there is no semantic tier")
            self._audits = Audits(self.likeness)
        return self._audits

    def ruling(self, route: Route, policy: CachePolicy) -> Ruling:
        """From which probability on is served by likeness, and why; `policy.max_wrong` is above 0."""
        return self.audits.ruling(route, policy)

    def bounds(self, routes: Sequence[Route]) -> list[dict[str, object]]:
        """What audits say of each of `routes` that has a semantic tier, as plain values."""
        return [] if self.likeness is None else self.audits.report(routes)

    def _drawn(self, found: Found, route: Route, policy: CachePolicy, ruling: Ruling) -> bool:
        """Whether `found` is to be audited: any candidate alike, served or not, or the sample would lean; all in doubt, and where none is served, since
        they are asked for anyway."""
        if found.p is None or not policy.audit or found.p < self.audits.bound(route, policy.max_wrong).floor:
            return False
        asked_anyway = not ruling.serves and (policy.shadow or not self.aid.helps(route))
        return asked_anyway or (ruling.serves and ruling.doubt) or self._random() >= 1.0 - policy.audit

    def _auditing(self, key: Key, policy: CachePolicy, cached: Cached) -> Landed:
        """Keep what came, and compare it with the entry that was found."""
        kept = self.shelf.get(cached.entry)

        def landed(request: Request, batches: list[Batch]) -> None:
            fresh = self.keep(key, policy, request, batches)
            if fresh is None or kept is None or cached.p is None or self.likeness is None or not fresh.vector:
                return
            right = self.likeness.same(kept, fresh)
            said = "right" if right else "wrong"
            self.counts.audits[said] += 1
            request.call.cached = msgspec.structs.replace(cached, audit=said)
            if not right:
                self._drop([kept.id])
                self.likeness.tighten(fresh)
            made = made_by(request.route, self.likeness.version)
            audit = Audit(request.route.name, made, cached.p, right, self.clock.wall())
            self.audits.add([audit])
            if self._kept is not None:
                self._kept.audit(audit)

        return self._guarded(landed)

    def near(self, key: Key) -> list[Near]:
        """The nearest entries of the key's scope, those that a guard turned down too; none where likeness is not asked."""
        if self.likeness is None or key.text is None or self.likeness.why_not(key) is not None:
            return []
        wall = self.clock.wall()
        return list(
            self.likeness.candidates(
                key.text, key.scope, self.shelf, fresh=lambda entry: entry.expires > wall
            )
        )

    def cached_by_likeness(self, entry: Entry, *, p: float | None, tau: float | None, state: str) -> Cached:
        """What is said of a semantic hit."""
        hit = self._cached("semantic", entry, self.clock.wall())
        return msgspec.structs.replace(hit, p=p, tau=tau, state=state)

    def rekeyed(self, request: Request, policy: CachePolicy, standalone: str) -> Key:
        """The key of the same request, had its last turn been `standalone` and the first of its conversation."""
        documents = self._documents.get(request.route.name, "")
        return read_key(request, policy, documents=documents, secret=self._secret, standalone=standalone)

    def _cached(self, tier: str, entry: Entry, wall: float) -> Cached:
        return Cached(
            tier=tier,
            entry=entry.id,
            target=entry.target,
            age_s=max(0.0, wall - entry.created),
            saved=entry.cost,
            saved_s=entry.took,
        )

    def replay(self, entry: Entry, cached: Cached, call: Call, key: Key) -> Stream:
        try:
            reply = decode_reply(
                entry.body,
                id=_REPLY_IDS.get(call.dialect, "") + call.id.removeprefix("req_"),
                created=int(self.clock.wall()),
                alike=cached.tier != "exact",
                restore=lambda text: restore(text, key.values),
            )
        except Exception:
            self._drop([entry.id])
            raise
        self.shelf.hit(entry)
        if self._kept is not None:
            self._kept.hit(entry)
        return OneBatch([Frame((Complete(reply),))])

    # --- keeping ------------------------------------------------------------------------------------------------------

    def _landing(self, key: Key, policy: CachePolicy) -> Landed:
        def landed(request: Request, batches: list[Batch]) -> None:
            self.keep(key, policy, request, batches)

        return self._guarded(landed)

    def _guarded(self, keep: Landed) -> Landed:
        def landed(request: Request, batches: list[Batch]) -> None:
            try:
                keep(request, batches)
            except Exception:  # noqa: BLE001  (the answer is the caller's, kept or not)
                self.failed("keeping an answer")

        return landed

    def keep(self, key: Key, policy: CachePolicy, request: Request, batches: list[Batch]) -> Entry | None:
        """Keep what came, if it is worth keeping; the entry then."""
        reply = assemble([event for batch in batches for frame in batch for event in frame.events])
        why = unfit(reply, batches, max_bytes=policy.max_entry_bytes, placeholders=key.values)
        if why is not None:
            self.counts.refused[why] += 1
            return None
        attempt = request.call.answering
        target = None if attempt is None else attempt.target
        ttl = policy.volatile_ttl_s if key.volatile else policy.ttl_s
        if target is not None and target != request.route.cascade[0]:
            ttl = min(ttl, policy.fallback_ttl_s)
        ttl = min(ttl, request.route.retention_s)
        wall = self.clock.wall()
        entry = Entry(
            id=self._new_id(),
            scope=key.scope,
            exact=key.exact,
            text=key.text,
            canonical=None if key.text is None else canonical(key.text),
            tenant=key.tenant,
            user=request.call.user or "",
            route=request.route.name,
            target="" if target is None else str(target),
            created=wall,
            expires=wall + ttl * (1.0 - JITTER * self._random()),
            body=encode_reply(reply, exchanger(key.values)),
            cost=None if attempt is None else attempt.cost,
            tokens=0 if reply.usage is None else reply.usage.total_tokens,
            took=self.clock.now() - request.call.started_at,
            tags=tuple(f"{name}={value}" if value else name for name, value in request.call.tags.items()),
            documents=self._documents.get(request.route.name, ""),
        )
        started = request.call.started_wall
        if any(at >= started and selection.takes(entry) for at, selection in self._purged):
            self.counts.refused["thrown away while it was asked for"] += 1
            return None
        self._drop(self.shelf.ended(wall))
        self._vector(entry, key, policy)
        self.shelf.put(entry)
        if self._kept is not None and request.route.stores_content:
            self._kept.put(entry)
        return entry

    def alias(self, entry: Entry, key: Key, request: Request) -> None:
        """Keep `entry` for the `key` of `request` too, found by its words alone; only the text, since it answered another question."""
        reply = decode_reply(entry.body, id="", created=0, alike=True)
        copy = msgspec.structs.replace(
            entry,
            id=self._new_id(),
            scope=key.scope,
            exact=key.exact,
            text=key.text,
            canonical=None if key.text is None else canonical(key.text),
            body=encode_reply(reply),
            hits=0,
            user=request.call.user or "",
            vector=b"",
            encoder="",
            signature=b"",
            mark=b"",
        )
        self.shelf.put(copy)
        if self._kept is not None and request.route.stores_content:
            self._kept.put(copy)

    def _vector(self, entry: Entry, key: Key, policy: CachePolicy) -> None:
        likeness = self.likeness
        if likeness is None or not policy.semantic or key.text is None:
            return
        try:
            if likeness.why_not(key) is None:
                likeness.prepare(entry)
                likeness.learn(entry, self.shelf)
        except Exception:  # noqa: BLE001  (without its vector the entry is found by its words)
            self.failed("encoding a question")

    def restore(self, entries: list[Entry]) -> None:
        """Put entries that were kept, the oldest first, back on the shelf. Vectors of another encoder are made again for the newest
        `RENEWED`; older ones are found by their words alone until they end, so that a new version starts as fast as the old one."""
        left = RENEWED
        for entry in reversed(entries):
            if entry.vector and (self.likeness is None or entry.encoder != self.likeness.version):
                entry.vector = b""
                if left:
                    left -= 1
                    self._renew(entry)
        for entry in entries:
            self.shelf.put(entry)

    def _renew(self, entry: Entry) -> None:
        try:
            if self.likeness is not None and entry.text is not None:
                self.likeness.prepare(entry)
        except Exception:  # noqa: BLE001  (found by its words then)
            self.failed("encoding a question")

    def follow(self, new: list[Entry], gone: list[str], audits: list[Audit]) -> None:
        """Take over what other processes did to the file; to be called on the event loop."""
        self.shelf.remove(gone)
        self.restore(new)
        if self.likeness is not None:
            self.audits.add(audits)

    def purge(self, selection: Selection) -> int:
        """Throw away what is selected, here and in the file; how many entries of this process that were. An answer that is on its way
        and would be selected is not kept either."""
        gone = self.shelf.remove([entry.id for entry in self.shelf if selection.takes(entry)])
        if self._kept is not None:
            self._kept.purge(selection)
        now = self.clock.wall()
        self._purged = [(at, one) for at, one in self._purged if at > now - LONGEST_FLIGHT_S]
        self._purged.append((now, selection))
        return len(gone)

    @property
    def store_errors(self) -> int:
        """Reads and writes of the file that failed; the entries concerned live in memory only."""
        return 0 if self._kept is None else self._kept.errors

    def _drop(self, ids: list[str]) -> None:
        if not ids:
            return
        self.shelf.remove(ids)
        if self._kept is not None:
            self._kept.remove(ids)

    def failed(self, doing: str) -> None:
        self.failures += 1
        if self.failures == 1:
            logger.error("the cache failed while %s; requests go on without it", doing, exc_info=True)  # noqa: LOG014  (called while one is handled)


def _for_audit(inner: Handler) -> Handler:
    """`inner` with the attempts' purpose in the ledger."""

    async def asked(request: Request, /) -> Stream:
        return await inner(msgspec.structs.replace(request, purpose="audit"))

    return asked
