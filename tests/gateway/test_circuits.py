"""Circuits through the gateway: several workers on one store, and what the admin, the metrics and a request's report show."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from tests.gateway.gate import config

from headrace.config import load
from headrace.engine import Engine
from headrace.errors import ProviderError, ProviderUnavailable
from headrace.gateway import admin
from headrace.gateway.circuits import SharedCircuits
from headrace.gateway.serve import Gateway, bind
from headrace.handler import collect
from headrace.layers.breaker import OPENS_AT_ONCE, Breaker
from headrace.store import MemoryStore
from headrace.testing import FakeProvider, Hang, ManualClock, ScriptedHandler, after, make_request, run

DEAD = ProviderUnavailable("dead", http=503)


class Worker:
    """One worker's breaker in front of a provider and with a store that the workers share (a file's: `tests/store`)."""

    def __init__(self, store: MemoryStore, clock: ManualClock, provider: ScriptedHandler) -> None:
        self.clock = clock
        self.breaker = Breaker(clock)
        self.shared = SharedCircuits(self.breaker, store, clock)
        self.handle = self.breaker(provider)

    async def ask(self) -> str:
        """One attempt at `fake/model` that has another level behind it."""
        request = msgspec.structs.replace(make_request(clock=self.clock), last_level=False)
        assert request.attempt is not None
        try:
            return (await collect(await self.handle(request))).text
        except ProviderError as error:
            request.attempt.fail(error, self.clock.now())
            return error.kind
        except BaseException:
            request.attempt.end("cancelled", self.clock.now())
            raise

    async def aclose(self) -> None:
        """Stop following."""
        await self.shared.aclose()


def test_workers_learn_of_each_others_circuits() -> None:
    """What one opens the other does not ask; of two probes one is sent; what one closes is closed for both."""
    clock, store = ManualClock(), MemoryStore()
    provider = ScriptedHandler(clock)
    provider.on("fake/model", *[DEAD] * 5, after(1.0, "back"), always="back")

    async def main() -> None:
        one, two = (Worker(store, clock, provider) for _ in range(2))
        try:
            for worker in (one, two):
                await worker.shared.start()
            assert [await one.ask() for _ in range(5)] == ["provider_unavailable"] * 5
            await clock.sleep(0.5)
            assert await two.ask() == "circuit_open"
            await clock.sleep(20.0)
            assert sorted(await asyncio.gather(one.ask(), two.ask())) == ["back", "circuit_open"]
            await clock.sleep(0.5)
            assert [await one.ask(), await two.ask()] == ["back", "back"]
        finally:
            await one.aclose()
            await two.aclose()

    run(main(), clock)
    assert len(provider.requests) == 8


def test_a_late_worker_learns_at_its_start() -> None:
    """A worker that is restarted in an outage does not find out again."""
    clock, store = ManualClock(), MemoryStore()
    provider = ScriptedHandler(clock, *[DEAD] * 5)

    async def main() -> None:
        one = Worker(store, clock, provider)
        await one.shared.start()
        for _ in range(5):
            await one.ask()
        await one.aclose()
        two = Worker(store, clock, provider)
        await two.shared.start()
        assert await two.ask() == "circuit_open"
        await two.aclose()

    run(main(), clock)
    assert len(provider.requests) == 5


def test_a_probe_that_told_nothing_is_given_back_to_all() -> None:
    """Its caller left: another worker probes without waiting for the lease."""
    clock, store = ManualClock(), MemoryStore()
    provider = ScriptedHandler(clock)
    provider.on("fake/model", *[DEAD] * 5, Hang(), always="back")

    async def main() -> None:
        one, two = (Worker(store, clock, provider) for _ in range(2))
        try:
            for worker in (one, two):
                await worker.shared.start()
            for _ in range(5):
                await one.ask()
            await clock.sleep(20.5)
            leaving = asyncio.ensure_future(one.ask())
            await clock.run_until_idle()
            assert len(provider.requests) == 6
            assert await two.ask() == "circuit_open"
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            await clock.sleep(0.5)
            assert await two.ask() == "back"
        finally:
            await one.aclose()
            await two.aclose()

    run(main(), clock)


def test_states_are_shown(tmp_path: Path) -> None:
    """`/admin` and `/metrics` name the open circuit."""

    async def main() -> None:
        with FakeProvider() as provider:
            path = tmp_path / "headrace.toml"
            path.write_text(config(provider))
            settings = load(path, environ={})
            engine = Engine(settings)
            sock = bind("127.0.0.1", 0)
            async with Gateway(settings, sockets=[sock], engine=engine) as gateway:
                engine.breaker.circuit("openai/first").failed(
                    engine.clock.now(), OPENS_AT_ONCE, "overloaded", probe=False
                )
                (row,) = admin.circuits(engine)
                assert (row["circuit"], row["state"], row["reason"]) == ("openai/first", "open", "overloaded")
                assert 19.0 < row["wait_s"] <= 20.0
                text = gateway.app.metrics.text().decode()
                assert 'headrace_circuit_state{target="openai/first"} 3.0' in text

    asyncio.run(main())
