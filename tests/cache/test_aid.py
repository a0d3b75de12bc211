"""Parts of one's own: a rewrite, a scorer, a judge; asked where the shipped parts found nothing, and never in the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cache.test_layer import House, answer
from tests.cache.test_semantic import TURNS
from tests.gateway.gate import ask, config, gated

from headrace.cache.aid import Aid, CosineScorer, named
from headrace.cache.index import VectorSlab
from headrace.cache.match import Matcher
from headrace.cache.shelf import Shelf
from headrace.config import load
from headrace.engine import Engine
from headrace.errors import ConfigError
from headrace.handler import CachePolicy
from headrace.testing import FakeProvider, run
from headrace.types import Text, Thinking

POLICY = CachePolicy(semantic=True, max_wrong=0.0001, lookup_s=10.0)
"""Under which the shipped parts serve nothing."""
ASKED, ALIKE = "How do I activate my new card?", "How can I activate the new card?"


def house(aid: Aid, policy: CachePolicy = POLICY) -> House:
    made = House(policy)
    made.cache.likeness = Matcher.load()
    made.cache.shelf = Shelf(1 << 26, new_slab=VectorSlab)
    made.cache.aid = aid
    return made


class Says:
    """A judge that remembers what it was asked."""

    def __init__(self, verdict: bool) -> None:
        self.verdict = verdict
        self.asked: list[tuple[str, str]] = []

    async def __call__(self, first: str, second: str) -> bool:
        self.asked.append((first, second))
        return self.verdict


@pytest.mark.parametrize("verdict", [True, False])
def test_a_judge_decides_and_is_not_asked_twice(verdict: bool) -> None:
    """After yes this wording is the entry's too, without the first exchange's thinking; after no it has an answer of its own."""
    judge = Says(verdict)
    home = house(Aid(judge=judge))

    async def main() -> None:
        thought = Thinking(text="hm", signature="sig")
        home.provider.script(msgspec.structs.replace(answer(), content=(thought, Text(text="So."))), "other")
        await home.ask(ASKED)
        reply, call = await home.ask(ALIKE)
        assert judge.asked == [(ASKED, ALIKE)]
        assert call.cached is not None
        assert (call.cache, call.cached.state, reply.text) == (
            ("hit-semantic", "judged", "So.") if verdict else ("miss", "infeasible", "other")
        )
        again, call = await home.ask(ALIKE)
        assert (call.cache, again.text, len(judge.asked)) == ("hit-exact", reply.text, 1)
        assert all(isinstance(block, Text) for block in again.content)

    run(main(), home.clock)


def test_a_guard_is_not_overruled() -> None:
    """Whom a guard turned down nobody is asked about."""
    judge = Says(True)
    home = house(Aid(judge=judge))

    async def main() -> None:
        await home.ask(ASKED)
        _, call = await home.ask("How do I not activate my new card?")
        assert (call.cache, judge.asked) == ("miss", [])

    run(main(), home.clock)


class Scores:
    """A scorer with one opinion."""

    def __init__(self, p: float) -> None:
        self.p = p

    def score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        assert pairs[0] == (ASKED, ALIKE)
        return [self.p] * len(pairs)


@pytest.mark.parametrize(("p", "hit"), [(0.99995, True), (0.99, False)])
def test_a_scorer_is_held_to_the_share(p: float, hit: bool) -> None:
    """With `max_wrong` 0.0001 a calibrated probability must be 0.9999 at least; the clock is a real one, for the thread."""

    async def main() -> None:
        home = house(Aid(scorer=Scores(p)))
        await home.ask(ASKED)
        _, call = await home.ask(ALIKE)
        assert call.cached is not None
        assert (call.cache == "hit-semantic") == hit
        if hit:
            assert (call.cached.state, call.cached.p, call.cached.tau) == ("scored", p, 0.9999)

    asyncio.run(main())


def test_an_encoder_is_a_scorer() -> None:
    """The probability rises with the cosine, whatever the vectors' lengths; a falling one is refused."""
    vectors = {"a": [2.0, 0.0], "b": [3.0, 0.0], "c": [0.0, 1.0], "d": [1.0, 1.0], "nothing": [0.0, 0.0]}
    scorer = CosineScorer(lambda texts: [vectors[text] for text in texts], weight=10.0, bias=-5.0)
    same, half, other, nothing = scorer.score([("a", "b"), ("a", "d"), ("a", "c"), ("a", "nothing")])
    assert same == pytest.approx(0.9933, abs=1e-4) and half == pytest.approx(0.888, abs=1e-3)
    assert other == nothing == pytest.approx(0.0067, abs=1e-4)
    with pytest.raises(ValueError, match="weight must be above 0"):
        CosineScorer(lambda texts: [], weight=0.0, bias=0.0)


def test_a_last_turn_is_made_to_stand_alone() -> None:
    """Another conversation that comes to the same question has its answer, and so has one that begins with it."""
    heard: list[Any] = []

    async def rewrite(turns: Sequence[tuple[str, str]]) -> str | None:
        heard.append(list(turns))
        return "Is the museum open tomorrow morning?"

    home = house(Aid(rewrite=rewrite))
    system = {"role": "system", "content": "Be brief."}

    async def main() -> None:
        last = {"role": "user", "content": "and in the morning?"}
        await home.ask(messages=[system, *TURNS, last])
        assert heard == [
            [
                ("system", "Be brief."),
                *((turn["role"], turn["content"]) for turn in TURNS),
                ("user", last["content"]),
            ]
        ]
        _, call = await home.ask(messages=[system, TURNS[0], {"role": "assistant", "content": "Yes."}, last])
        assert call.cache == "hit-canonical"
        _, call = await home.ask(
            messages=[system, {"role": "user", "content": "is the museum open tomorrow morning"}]
        )
        assert call.cache == "hit-canonical" and len(heard) == 2
        _, call = await home.ask(
            messages=[{"role": "user", "content": "is the museum open tomorrow morning"}]
        )
        assert call.cache == "miss"
        _, call = await home.ask(messages=[system, *TURNS, last])
        assert call.cache == "hit-exact"

    run(main(), home.clock)


@pytest.mark.parametrize("fault", ["raises", "hangs"])
def test_a_part_that_fails_or_hangs_is_a_miss(fault: str) -> None:
    """After `hook_s` at most the model is asked; a hundred askers of the same still are one request."""
    home: House

    async def judge(first: str, second: str) -> bool:
        if fault == "raises":
            raise OSError("no judge")
        await home.clock.sleep(60)
        return True

    home = house(Aid(judge=judge))

    async def main() -> None:
        await home.ask(ASKED)
        started = home.clock.now()
        got = await asyncio.gather(*(home.ask(ALIKE) for _ in range(100)))
        assert {reply.text for reply, _ in got} == {"ok"}
        assert home.clock.now() - started == (0 if fault == "raises" else POLICY.hook_s)
        assert len(home.provider.requests) == 2

    run(main(), home.clock)


def test_names_of_parts() -> None:
    """What is named is found; what is not there is the settings' fault."""
    assert named("headrace.cache.aid:Aid", "x") is Aid
    for path in ("headrace.cache.aid:Nobody", "no_such_module:x"):
        with pytest.raises(ConfigError, match=f"x = '{path}' cannot be imported"):
            named(path, "x")


MORE = """
[routes.kept]
cascade = ["openai/first"]
[routes.kept.cache]
semantic = true
max_wrong = 0.0001
lookup = "5s"
judge = "openai/judge"
"""


@pytest.mark.parametrize(("verdict", "how"), [("Yes.", "hit-semantic"), ("no", "miss")])
def test_a_model_judges(tmp_path: Path, verdict: str, how: str) -> None:
    """Over the gateway: it is asked both questions, its request is in the caller's own report, and the target is not the judge."""
    with FakeProvider() as provider, gated(provider, tmp_path, config(provider, more=MORE)) as gate:
        provider.reply("Like this.")
        gate.post("openai", ask("openai", "kept", ASKED))
        provider.reply(verdict)
        got = gate.post("openai", ask("openai", "kept", ALIKE))
        assert got.headers["x-headrace-cache"] == how
        asked = provider.requests[1].json
        assert asked["model"] == "judge" and ASKED in asked["messages"][-1]["content"]
        assert got.headers.get("x-headrace-target") == (None if how == "hit-semantic" else "openai/first")
        attempts = gate.report(got.headers["x-request-id"])["attempts"]
        assert attempts[0]["target"] == "openai/judge"
        assert len(attempts) == (1 if how == "hit-semantic" else 2)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ('rewrite = "no path"', "must name something that can be imported"),
        ('rewrite = "no_such_module:x"', "cannot be imported"),
        ('judge = "nobody/x"', "nobody/x"),
    ],
)
def test_a_part_that_is_not_there_is_told_at_the_start(tmp_path: Path, key: str, says: str) -> None:
    """When the settings are read or the engine is built, not at the first request."""
    path = tmp_path / "headrace.toml"
    path.write_text(
        f'[routes.r]\ncascade = ["local/default"]\n[routes.r.cache]\n{key}\n[store]\npath = ":memory:"\n'
    )
    with pytest.raises(ConfigError, match=says):
        Engine(load(path, environ={}))
