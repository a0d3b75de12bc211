"""Personal and secret values: in no key, no entry, no file, and put back for who wrote them."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import msgspec
from tests.cache.test_layer import House, answer
from tests.cache.test_semantic import POLICY

from headrace.cache.index import VectorSlab
from headrace.cache.key import read_key
from headrace.cache.match import Matcher
from headrace.cache.setup import open_cache
from headrace.cache.shelf import Shelf
from headrace.clock import SystemClock
from headrace.config import load
from headrace.testing import run

ANN, BOB = "ann@example.com", "bob@example.com"


def asks(who: str) -> str:
    return f"Is {who} a correct mail address?"


def test_a_value_is_kept_nowhere_and_comes_back() -> None:
    """Entry and answer have a placeholder; the same value in another spelling of the question gets the answer with its value."""
    house = House()

    async def main() -> None:
        house.provider.script(answer(f"Yes, {ANN} is."))
        await house.ask(asks(ANN))
        (entry,) = house.cache.shelf
        assert entry.text == "Is EMAIL1 a correct mail address?"
        assert ANN.encode() not in msgspec.json.encode(entry) and b"[EMAIL_1]" in entry.body
        for text, tier in ((asks(ANN), "hit-exact"), (asks(ANN).lower(), "hit-canonical")):
            reply, call = await house.ask(text)
            assert (reply.text, call.cache) == (f"Yes, {ANN} is.", tier)

    run(main(), house.clock)


def test_other_values_are_another_question() -> None:
    """Whoever writes another address is not told what was said of the first, by no tier."""
    house = House(POLICY)
    house.cache.likeness = Matcher.load()
    house.cache.shelf = Shelf(1 << 24, new_slab=VectorSlab)

    async def main() -> None:
        house.provider.script(answer(f"Yes, {ANN} is."), answer(f"No, {BOB} is not."))
        await house.ask(asks(ANN))
        reply, call = await house.ask(asks(BOB))
        assert (reply.text, call.cache) == (f"No, {BOB} is not.", "miss")
        reply, call = await house.ask(f"is {ANN} a correct mail address please")
        assert (reply.text, call.cache) == (f"Yes, {ANN} is.", "hit-canonical")

    run(main(), house.clock)


def test_what_a_guard_above_has_redacted_is_in_the_scope_too() -> None:
    """The body's words are the same, what they stand for is not; only the values tell."""
    house = House()
    request = house.request("Is [EMAIL_1] a correct mail address?")

    def key(values: dict[str, str], secret: bytes = b"s") -> Any:
        redacted = msgspec.structs.replace(request, redacted=values)
        return read_key(redacted, house.policy, secret=secret)

    ann, bob = key({"[EMAIL_1]": ANN}), key({"[EMAIL_1]": BOB})
    assert ann.text == bob.text == "Is EMAIL1 a correct mail address?"
    assert ann.scope != bob.scope and ann.exact != bob.exact
    assert key({"[EMAIL_1]": ANN}) == ann
    assert key({"[EMAIL_1]": ANN}, b"t").scope != ann.scope
    assert key({}).text == "Is [EMAIL_1] a correct mail address?"


def test_an_answer_with_placeholders_of_its_own_is_not_kept() -> None:
    """It could not be put back exactly; where the question has no value, nothing is put back and it may stay."""
    house = House()

    async def main() -> None:
        house.provider.script(answer("Write [EMAIL_1] there."), answer("Write [EMAIL_1] there."))
        await house.ask(asks(ANN))
        assert len(house.cache.shelf) == 0
        assert house.cache.counts.refused == {"placeholders of its own": 1}
        await house.ask("How do I redact a mail address?")
        reply, call = await house.ask("How do I redact a mail address?")
        assert (reply.text, call.cache) == ("Write [EMAIL_1] there.", "hit-exact")

    run(main(), house.clock)


def test_a_turn_of_several_texts_has_its_values_out_of_the_entry_too() -> None:
    """It is found by the same request alone; its answer is kept with placeholders all the same."""
    house = House()
    content = [{"type": "text", "text": "A question."}, {"type": "text", "text": asks(ANN)}]
    messages = [{"role": "user", "content": content}]

    async def main() -> None:
        house.provider.script(answer(f"Yes, {ANN} is."))
        await house.ask(messages=messages)
        (entry,) = house.cache.shelf
        assert entry.text is None and ANN.encode() not in msgspec.json.encode(entry)
        reply, call = await house.ask(messages=messages)
        assert (reply.text, call.cache) == (f"Yes, {ANN} is.", "hit-exact")

    run(main(), house.clock)


def test_a_document_is_matched_as_a_whole_only() -> None:
    """A last turn of 100,000 characters is not looked through: no text is kept, the same request is still answered."""
    house = House()

    async def main() -> None:
        long = "word " * 20_000
        await house.ask(long)
        (entry,) = house.cache.shelf
        assert (entry.text, entry.canonical) == (None, None)
        _, call = await house.ask(long)
        assert call.cache == "hit-exact"
        _, call = await house.ask(long + "!")
        assert call.cache == "miss"

    run(main(), house.clock)


def test_the_secret_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    """Workers and restarts share it; without a store each process has its own."""
    path = tmp_path / "headrace.toml"
    path.write_text(
        f'[routes.r]\ncascade = ["local/default"]\n[routes.r.cache]\n[store]\npath = "{tmp_path}/h.db"\n'
    )
    settings = load(path, environ={})
    found: list[bytes] = []
    for _ in range(2):
        cache, kept = open_cache(settings, SystemClock(), lambda: 0.0)
        found.append(cache._secret)
        assert kept is not None
        kept.close()
    file = tmp_path / "h.cache.key"
    assert found[0] == found[1] == file.read_bytes() and len(found[0]) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert sorted(one.name for one in tmp_path.glob("h.cache.key*")) == ["h.cache.key"]
    path.write_text('[routes.r]\ncascade = ["local/default"]\n[routes.r.cache]\n[store]\npath = ":memory:"\n')
    memory = load(path, environ={})
    assert memory.store.path is None
    caches = [open_cache(memory, SystemClock(), lambda: 0.0)[0] for _ in range(2)]
    assert caches[0]._secret != caches[1]._secret
