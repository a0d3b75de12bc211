"""`headrace.Cache` around functions, without client or gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import headrace
from headrace.errors import ConfigError
from headrace.testing import ManualClock, run


def test_a_function_is_called_once_for_the_same_words() -> None:
    """Its other arguments part the questions, however they are passed; what came from where is told."""

    async def main() -> None:
        calls: list[tuple[str, str]] = []
        cache = headrace.Cache(ttl=60, clock=clock)

        @cache
        async def answer(question: str, product: str = "shoes") -> str:
            """Asks someone."""
            calls.append((question, product))
            return f"{product}: yes"

        assert await answer("Do you deliver to Rome?") == "shoes: yes"
        assert await answer("do you deliver to Rome", product="shoes") == "shoes: yes"
        assert await answer("Do you deliver to Rome?", "hats") == "hats: yes"
        assert len(calls) == 2 and answer.__doc__ == "Asks someone."
        told = await answer.told("Do you deliver to Rome?")
        assert (told.result, told.cached.tier, told.text) == ("hit-exact", "exact", "shoes: yes")
        await clock.sleep(61)
        assert (await answer.told("Do you deliver to Rome?")).result == "miss"
        assert cache.stats()["results"] == {"miss": 3, "canonical": 1, "exact": 1}
        await cache.aclose()

    clock = ManualClock()
    run(main(), clock)


def test_other_words_and_the_same_at_once() -> None:
    """The semantic tier answers; a hundred callers at once are one call; explain says why; purge throws away."""

    async def main() -> None:
        calls = 0
        async with headrace.Cache(semantic=True, max_wrong=0.05, lookup=5.0) as cache:

            @cache
            async def answer(question: str) -> str:
                nonlocal calls
                calls += 1
                await asyncio.sleep(0.01)  # noqa: TID251  (lets the others come)
                return "Like this."

            got = await asyncio.gather(*(answer("How do I activate my new card?") for _ in range(100)))
            assert set(got) == {"Like this."} and calls == 1
            told = await answer.told("how can I activate the new card")
            assert (told.result, told.cached.state) == ("hit-semantic", "prior")
            (verdict,) = cache.explain("How do I not activate my new card?")
            assert verdict.veto == "negation" and not verdict.hit
            assert cache.purge(prefix="how can") == 0
            assert cache.purge(name=answer.name) == 1
            assert (await answer.told("How do I activate my new card?")).result == "miss"

    asyncio.run(main())


def test_what_fails_is_not_kept_and_reaches_every_caller() -> None:
    """The function's own exception, for all who waited; the next call tries again."""

    async def main() -> None:
        cache = headrace.Cache()
        calls = 0

        async def answer(question: str) -> str:
            nonlocal calls
            calls += 1
            await asyncio.sleep(0)  # noqa: TID251  (lets the others come)
            if calls == 1:
                raise KeyError("no answer")
            return "yes"

        asked = cache.around(answer, name="mine")
        got = await asyncio.gather(*(asked("Is it so?") for _ in range(3)), return_exceptions=True)
        assert [type(one) for one in got] == [KeyError] * 3 and calls == 1
        assert await asked("Is it so?") == "yes"
        await cache.aclose()

    asyncio.run(main())


def test_a_file_is_shared_and_tenants_are_not(tmp_path: Path) -> None:
    """Another cache on the same file has the answers of its own tenant."""

    async def main() -> None:
        async def answer(question: str) -> str:
            return "yes"

        results = []
        for tenant in ("acme", "acme", "other"):
            async with headrace.Cache(path=tmp_path / "answers.db", tenant=tenant) as cache:
                results.append((await cache.around(answer).told("Is it so?")).result)
        assert results == ["miss", "hit-exact", "miss"]

    asyncio.run(main())


def test_a_scope_of_ones_own() -> None:
    """What JSON cannot hold needs one; without it the call fails, telling of it."""

    class Shop:
        def __init__(self, country: str) -> None:
            self.country = country

    async def main() -> None:
        cache = headrace.Cache()

        async def answer(question: str, shop: Shop) -> str:
            return shop.country

        with pytest.raises(TypeError, match="scope"):
            await cache.around(answer)("Where is it?", Shop("it"))
        asked = cache.around(answer, scope=lambda question, shop: shop.country)
        said = [await asked("Where is it?", Shop(country)) for country in ("it", "fr", "it")]
        assert said == ["it", "fr", "it"]
        assert cache.stats()["results"] == {"miss": 2, "exact": 1}
        await cache.aclose()

    asyncio.run(main())


def test_mistakes_are_told() -> None:
    """At once, with the value."""
    with pytest.raises(ConfigError, match=r"max_wrong is a share from 0 to 0.5, not 2"):
        headrace.Cache(max_wrong=2)
    with pytest.raises(ConfigError, match="ttl must be above 0, not 0"):
        headrace.Cache(ttl=0)
