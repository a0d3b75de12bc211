"""The semantic tier in the layer: what it may answer, what it says, what it must never do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.cache.test_layer import House, answer

from headrace.cache.index import VectorSlab
from headrace.cache.key import Key
from headrace.cache.layer import Cache
from headrace.cache.match import Matcher
from headrace.cache.shelf import Shelf
from headrace.handler import CachePolicy
from headrace.testing import run
from headrace.types import Text, Thinking

POLICY = CachePolicy(semantic=True, max_wrong=0.05, lookup_s=10.0)
ASKED = "How do I activate my new card?"
ALIKE = "how can I activate the new card"


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    """The shipped one."""
    return Matcher.load()


def house(matcher: Matcher, policy: CachePolicy = POLICY) -> House:
    """The default stack with a semantic cache."""
    made = House(policy)
    made.cache.likeness = matcher
    made.cache.shelf = Shelf(1 << 26, new_slab=VectorSlab)
    return made


def test_other_words_for_the_same_are_answered(matcher: Matcher) -> None:
    """The call says tier, entry, p, tau, state, age and what was saved; the text alone is given, under a new id."""
    home = house(matcher)

    async def main() -> None:
        thought = Thinking(text="hm", signature="sig")
        home.provider.script(msgspec.structs.replace(answer(), content=(thought, Text(text="Like this."))))
        first, _ = await home.ask(ASKED)
        await home.clock.sleep(7)
        reply, call = await home.ask(ALIKE)
        cached = call.cached
        assert cached is not None and call.cache == "hit-semantic"
        assert (cached.tier, cached.state, cached.target) == ("semantic", "prior", "a/one")
        assert cached.p is not None and cached.tau is not None and cached.p >= cached.tau
        assert (cached.age_s, cached.saved, cached.entry != "") == (7, 15, True)
        assert reply.content == (Text(text="Like this."),) and reply.id != first.id
        assert reply.usage == first.usage and call.cost == 0
        for said in ("tier=semantic", "state=prior", "p=0.", "tau=0.", "age=7"):
            assert said in cached.detail()
        assert home.cache.counts.results == {"miss": 1, "semantic": 1}
        assert home.cache.counts.saved == 15

    run(main(), home.clock)


def test_a_guard_says_why_not(matcher: Matcher) -> None:
    """A negated question is another one; the veto is in the call and counted."""
    home = house(matcher)

    async def main() -> None:
        await home.ask(ASKED)
        _, call = await home.ask("How do I not activate my new card?")
        assert call.cache == "miss" and call.cached is not None
        assert call.cached.vetoes == ("negation",)
        assert home.cache.counts.vetoes == {"negation": 1}

    run(main(), home.clock)


@pytest.mark.parametrize(
    ("policy", "state"),
    [
        (msgspec.structs.replace(POLICY, semantic=False), ""),
        (msgspec.structs.replace(POLICY, max_wrong=0.0), ""),
        (msgspec.structs.replace(POLICY, max_wrong=0.0001), "infeasible"),
    ],
)
def test_no_likeness_where_it_is_off_or_cannot_keep_its_share(
    matcher: Matcher, policy: CachePolicy, state: str
) -> None:
    """`semantic = false`, `max_wrong = 0`, and a share that no threshold keeps: a miss, and the exact tiers go on."""
    home = house(matcher, policy)

    async def main() -> None:
        await home.ask(ASKED)
        _, call = await home.ask(ALIKE)
        assert call.cache == "miss" and call.cached is not None
        assert call.cached.state == state
        _, call = await home.ask(ASKED.upper())
        assert call.cache == "hit-canonical"

    run(main(), home.clock)


def test_a_slow_lookup_is_a_miss(matcher: Matcher) -> None:
    """The time is the clock's; the reason is said."""

    class Slow(Matcher):
        def find(self, *arguments: Any, **how: Any) -> Any:
            home.clock.advance(0.006)
            return super().find(*arguments, **how)

    home = house(Slow(matcher.encoder, matcher.verifier), msgspec.structs.replace(POLICY, lookup_s=0.005))

    async def main() -> None:
        await home.ask(ASKED)
        _, call = await home.ask(ALIKE)
        assert call.cache == "miss" and call.cached is not None
        assert call.cached.why == "lookup too slow"

    run(main(), home.clock)


TURNS = [
    {"role": "user", "content": "Is the museum open on Monday?"},
    {"role": "assistant", "content": "Yes, from nine to five."},
]


@pytest.mark.parametrize("last", ["and tomorrow?", "what about the second one?", "Yes", "is it free there"])
def test_an_elliptic_last_turn_is_never_matched_by_likeness(matcher: Matcher, last: str) -> None:
    """It leaves to the turns before what it is about; nor is it kept for others to match."""
    home = house(matcher)

    async def main() -> None:
        messages = [*TURNS, {"role": "user", "content": last}]
        _, call = await home.ask(messages=messages)
        assert call.cached is not None
        assert call.cached.why == "not matched by likeness: elliptic"
        (entry,) = home.cache.shelf
        assert entry.vector == b""
        _, call = await home.ask(messages=messages)
        assert call.cache == "hit-exact"

    run(main(), home.clock)


def test_the_turns_before_must_be_the_same(matcher: Matcher) -> None:
    """A last turn that stands alone is matched after the same turns, and not after others."""
    home = house(matcher)

    async def main() -> None:
        other = [{"role": "user", "content": "Is the pool open on Monday?"}, TURNS[1]]
        await home.ask(messages=[*TURNS, {"role": "user", "content": ASKED}])
        _, call = await home.ask(messages=[*TURNS, {"role": "user", "content": ALIKE}])
        assert call.cache == "hit-semantic"
        _, call = await home.ask(messages=[*other, {"role": "user", "content": ALIKE}])
        assert call.cache == "miss"

    run(main(), home.clock)


def test_two_tenants_and_two_system_prompts_never_cross(matcher: Matcher) -> None:
    """The answer names who it was made for: 1,000 paraphrases, most of them hits, none of another's."""
    home = house(matcher)
    things = ("card", "phone", "account", "ticket", "router", "watch", "lamp", "heater", "printer", "alarm")
    scopes = [(tenant, system) for tenant in ("acme", "bolt") for system in ("Be brief.", "Be rude.")]

    async def ask(text: str, tenant: str, system: str) -> tuple[str, str]:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        home.provider.on("a/one", always=f"{tenant} {system}")
        reply, call = await home.ask(tenant=tenant, messages=messages)
        return reply.text, call.cache

    async def main() -> None:
        hits = crossed = 0
        for number in range(25):
            for thing in things:
                for tenant, system in scopes:
                    text = f"how {'do' if number % 2 else 'can'} I {'activate' if number % 3 else 'enable'} the new {thing}"
                    said, how = await ask(text, tenant, system)
                    hits += how == "hit-semantic"
                    crossed += said != f"{tenant} {system}"
        assert crossed == 0
        assert hits >= 40, hits
        assert home.cache.counts.results["miss"] <= 1000 - hits

    run(main(), home.clock)


def test_an_entry_of_another_encoder_is_encoded_again(matcher: Matcher) -> None:
    """Vectors of two encoders are never compared."""
    home = house(matcher)

    async def main() -> None:
        await home.ask(ASKED)
        (entry,) = home.cache.shelf
        kept = msgspec.structs.replace(entry, vector=b"\x01" * 7, encoder="old")
        other: Cache = house(matcher).cache
        other.restore([kept])
        key = other._key(home.request(ALIKE), POLICY)
        assert key is not None
        found, cached = other.find(key, POLICY, home.request().route)
        assert found is not None and cached.tier == "semantic"

    run(main(), home.clock)


DIFFERENTLY = (
    "My new card needs activation before I travel",
    "Where in the app do new cards get activated",
    "New card came in the mail and wants activating",
)


STRICT = msgspec.structs.replace(POLICY, max_wrong=0.0001)
"""Serves nothing by likeness, and learns."""


@pytest.mark.parametrize("agree", [True, False])
def test_the_answers_of_neighbours_are_compared(matcher: Matcher, agree: bool) -> None:
    """Each entry names the first whose answer agrees with its own; answers that differ each stand for themselves."""
    home = house(Matcher(matcher.encoder, matcher.verifier), STRICT)

    async def main() -> None:
        for number, text in enumerate(DIFFERENTLY):
            home.provider.on("a/one", always="Open the app." if agree else f"Call branch {number}.")
            await home.ask(text)
        first, *others = sorted(home.cache.shelf, key=lambda entry: DIFFERENTLY.index(entry.text or ""))
        assert first.agrees == first.id
        assert [entry.agrees for entry in others] == [first.id if agree else entry.id for entry in others]

    run(main(), home.clock)


def test_near_questions_with_other_answers_make_the_cache_careful(matcher: Matcher) -> None:
    """What is nearly served and turns out to be answered otherwise lowers p in that scope, and in no other."""
    home = house(Matcher(matcher.encoder, matcher.verifier), STRICT)

    def messages(system: str, text: str) -> list[dict[str, str]]:
        return [{"role": "system", "content": system}, {"role": "user", "content": text}]

    def p(system: str) -> float:
        key = home.cache._key(home.request(messages=messages(system, ALIKE)), POLICY)
        assert key is not None
        _, cached = home.cache.find(key, POLICY, home.request().route)
        assert cached.p is not None
        return cached.p

    async def main() -> None:
        for system in ("Be brief.", "Be rude."):
            await home.ask(messages=messages(system, ASKED))
        before = p("Be brief.")
        assert p("Be rude.") == before
        for thing in ("boat", "horse", "garden", "violin", "camera", "oven"):
            for price, asked in enumerate(
                (f"how can I sell the old {thing}", f"How do I sell my old {thing}?")
            ):
                home.provider.on("a/one", always=f"Offer your {thing} for {price + 1} dollars.")
                await home.ask(messages=messages("Be brief.", asked))
        assert p("Be brief.") < before
        assert p("Be rude.") == before

    run(main(), home.clock)


def by_lot(matcher: Matcher, policy: CachePolicy, draw: float) -> House:
    """A house whose lot is always `draw`, with scopes that no other test has taught."""
    home = house(Matcher(matcher.encoder, matcher.verifier), policy)
    home.cache._random = lambda: draw
    return home


def key_of(home: House) -> Key:
    """Of `ALIKE`."""
    key = home.cache._key(home.request(ALIKE), POLICY)
    assert key is not None
    return key


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("right", [True, False])
def test_an_audit_asks_anyway_and_compares(matcher: Matcher, right: bool, stream: bool) -> None:
    """The caller has the fresh answer; the attempt says why it was made; a wrong entry goes, and its neighbourhood asks for more."""
    home = by_lot(matcher, POLICY, 0.99)

    async def main() -> None:
        home.provider.on("a/one", always="Open the app.")
        await home.ask(ASKED)
        (entry,) = home.cache.shelf
        before = home.cache.near(key_of(home))[0].p
        home.provider.on("a/one", always="Open the app." if right else "Call your branch on Monday.")
        reply, call = await home.ask(ALIKE, stream=stream)
        assert reply.text == ("Open the app." if right else "Call your branch on Monday.")
        assert call.cache == "miss" and call.attempts[0].purpose == "audit"
        cached = call.cached
        assert cached is not None
        assert (cached.why, cached.entry, cached.state) == ("audited", entry.id, "prior")
        assert cached.audit == ("right" if right else "wrong")
        assert home.cache.counts.audits == {cached.audit: 1}
        assert (home.cache.shelf.get(entry.id) is not None) == right
        ruling = home.cache.ruling(home.request().route, POLICY)
        assert (ruling.audits, ruling.wrong) == (1, 0 if right else 1)
        home.cache.shelf.put(entry)
        home.cache.shelf.remove([one.id for one in home.cache.shelf if one.id != entry.id])
        after = home.cache.near(key_of(home))[0].p
        assert before is not None and after is not None
        assert after < before - 0.05 if not right else after >= before

    run(main(), home.clock)


def test_most_hits_are_not_audited(matcher: Matcher) -> None:
    """A lot below the share's edge serves; `audit = 0` audits none."""
    for policy, draw in ((POLICY, 0.97), (msgspec.structs.replace(POLICY, audit=0.0), 0.9999)):
        home = by_lot(matcher, policy, draw)

        async def main(home: House = home) -> None:
            await home.ask(ASKED)
            _, call = await home.ask(ALIKE)
            assert call.cache == "hit-semantic"

        run(main(), home.clock)


def test_in_shadow_nothing_is_given_and_all_is_compared(matcher: Matcher) -> None:
    """The exact tiers go on."""
    home = by_lot(matcher, msgspec.structs.replace(POLICY, shadow=True), 0.0)

    async def main() -> None:
        await home.ask(ASKED)
        _, call = await home.ask(ALIKE)
        assert call.cache == "miss" and call.cached is not None
        assert (call.cached.state, call.cached.audit) == ("shadow", "right")
        _, call = await home.ask(ALIKE)
        assert call.cache == "hit-exact"

    run(main(), home.clock)


def test_wrong_audits_turn_the_tier_off_and_a_failed_comparison_is_only_a_miss(matcher: Matcher) -> None:
    """Three wrong in a row: infeasible. A comparison that raises leaves the caller's answer alone and says nothing."""
    home = by_lot(matcher, POLICY, 0.99)

    class Broken(Matcher):
        def same(self, *_: Any) -> bool:
            raise RuntimeError("boom")

    async def main() -> None:
        for number, thing in enumerate(("card", "phone", "router")):
            home.provider.on("a/one", always=f"Answer {number}.")
            await home.ask(f"How do I activate my new {thing}?", tenant=thing)
            home.provider.on("a/one", always=f"Call branch {number + 10} on Monday instead.")
            _, call = await home.ask(f"how can I activate the new {thing}", tenant=thing)
            assert call.cached is not None and call.cached.audit == "wrong"
            assert home.cache.ruling(home.request().route, POLICY).state == (
                "infeasible" if number == 2 else "prior"
            )
        home.cache.likeness = Broken(matcher.encoder, matcher.verifier)
        await home.ask("How do I open a savings account?")
        reply, call = await home.ask("how can I open the savings account")
        assert reply.text and call.cached is not None
        assert (call.cached.why, call.cached.audit, home.cache.failures) == ("audited", "", 1)

    run(main(), home.clock)
