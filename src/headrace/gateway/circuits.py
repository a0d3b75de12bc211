"""Circuits of several workers: each tells its transitions to the store and learns the others'.

Outcomes are counted where they happen; only transitions are written. What a worker finds out, the others know within `EVERY_S` and
the time of one write; the one probe of a half-open circuit is taken in the store itself, so that two workers never send one each.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING

from headrace.errors import StoreError
from headrace.layers.breaker import LEASE_S, Breaker, Change, CircuitState
from headrace.store import StoredCircuit

if TYPE_CHECKING:
    from headrace.clock import Clock
    from headrace.store import Store

__all__ = ["EVERY_S", "SharedCircuits"]

EVERY_S = 0.25
"""Seconds between two looks into the store: with the 0.05 s that its writer gathers, well within half a second."""

logger = logging.getLogger("headrace.gateway")


class SharedCircuits:
    """Joins a worker's breaker to those of the others; `start` on the running loop, `aclose` before the store."""

    def __init__(self, breaker: Breaker, store: Store, clock: Clock) -> None:
        self._breaker = breaker
        self._store = store
        self._clock = clock
        self._me = secrets.token_hex(8)
        self._seen = 0
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Learn what the others know, then go on doing so."""
        await self.look()
        self._breaker.told = self._tell
        self._breaker.claim = self._claim
        self._task = asyncio.create_task(self._follow(), name="headrace-circuits")

    async def aclose(self) -> None:
        """Stop; idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
            self._breaker.told = self._breaker.claim = None

    def _tell(self, change: Change) -> None:
        if change.state is CircuitState.HALF_OPEN:
            return  # the claim has told it
        until_wall = self._clock.wall() + change.until - self._clock.now()
        self._store.record_circuit(
            StoredCircuit(
                key=change.key,
                state=change.state.value,
                until_wall=until_wall,
                trips=change.trips,
                reason=change.reason,
                by=self._me,
            )
        )

    async def _claim(self, key: str) -> bool:
        now = self._clock.wall()
        try:
            return await self._store.claim_probe(key, now, now + LEASE_S, self._me)
        except StoreError:
            return True  # a store that is down must not keep a target from coming back

    async def _follow(self) -> None:
        while True:
            await self._clock.sleep(EVERY_S)
            try:
                await self.look()
            except StoreError:
                logger.debug("circuits of other workers cannot be read")

    async def look(self) -> None:
        """Apply what the others have told since the last look."""
        self._seen, circuits = await self._store.circuits(self._seen)
        for circuit in circuits:
            if circuit.by != self._me:
                until = self._clock.now() + circuit.until_wall - self._clock.wall()
                state = CircuitState(circuit.state)
                self._breaker.learn(Change(circuit.key, state, until, circuit.trips, circuit.reason))
