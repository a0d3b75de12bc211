from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest

from headrace.prices import PRICED_PROVIDERS, Catalog
from headrace.types import Usage

MILLION = 1_000_000

# US dollars per million tokens, written down by hand: input, output, cached read, five-minute write, one-hour write. All three
# sources have them (two for models that litellm has retired: Claude 3 and 4; one for groq's Llama). The providers'
# own pages: developers.openai.com/api/docs/pricing, platform.claude.com/docs/en/about-claude/pricing,
# ai.google.dev/gemini-api/docs/pricing, groq.com/pricing.
HAND_CHECKED = [
    ("openai", "gpt-4o", "2.50", "10.00", "1.25", None, None),
    ("openai", "gpt-4o-2024-08-06", "2.50", "10.00", "1.25", None, None),
    ("openai", "gpt-4o-2024-05-13", "5.00", "15.00", None, None, None),
    ("openai", "gpt-4o-mini", "0.15", "0.60", "0.075", None, None),
    ("openai", "gpt-4.1", "2.00", "8.00", "0.50", None, None),
    ("openai", "gpt-4.1-nano", "0.10", "0.40", "0.025", None, None),
    ("openai", "gpt-5", "1.25", "10.00", "0.125", None, None),
    ("openai", "gpt-5-mini", "0.25", "2.00", "0.025", None, None),
    ("openai", "o3", "2.00", "8.00", "0.50", None, None),
    ("openai", "text-embedding-3-small", "0.02", "0", None, None, None),
    ("openai", "text-embedding-3-large", "0.13", "0", None, None, None),
    ("mistral", "mistral-embed", "0.10", "0", None, None, None),
    ("anthropic", "claude-sonnet-4-5", "3.00", "15.00", "0.30", "3.75", "6.00"),
    ("anthropic", "claude-sonnet-4-20250514", "3.00", "15.00", "0.30", "3.75", "6.00"),
    ("anthropic", "claude-haiku-4-5", "1.00", "5.00", "0.10", "1.25", "2.00"),
    ("anthropic", "claude-opus-4-1", "15.00", "75.00", "1.50", "18.75", "30.00"),
    ("anthropic", "claude-3-haiku-20240307", "0.25", "1.25", "0.03", "0.30", "0.50"),
    ("gemini", "gemini-2.5-pro", "1.25", "10.00", "0.125", None, None),
    ("gemini", "gemini-2.5-flash", "0.30", "2.50", "0.03", None, None),
    ("groq", "llama-3.3-70b-versatile", "0.59", "0.79", None, None, None),
]


def nano(usd: str | None) -> int | None:
    if usd is None:
        return None
    whole, _, part = usd.partition(".")
    return int(whole + part.ljust(9, "0"))


@pytest.mark.parametrize("row", HAND_CHECKED, ids=lambda row: f"{row[0]}/{row[1]}")
def test_main_models_cost_what_their_providers_say(row: tuple[str, ...]) -> None:
    """The committed data has the published prices of the main models."""
    provider, model, *usd = row
    found = Catalog().model(provider, model)
    assert found is not None and found.prices is not None
    prices = found.prices
    said = [prices.input, prices.output, prices.cache_read, prices.cache_write, prices.cache_write_1h]
    assert said == [nano(price) for price in usd]


def test_the_long_prompt_of_gemini_costs_the_dearer_tier() -> None:
    """gemini-2.5-pro costs 1.25/10 up to 200,000 tokens of input and 2.50/15 above, for all of the tokens."""
    catalog = Catalog()
    at = Usage(input_tokens=200_000, output_tokens=1000)
    above = Usage(input_tokens=200_001, output_tokens=1000)
    assert catalog.cost("gemini", "gemini-2.5-pro", at) == 200_000 * 1_250 + 1000 * 10_000
    assert catalog.cost("gemini", "gemini-2.5-pro", above) == 200_001 * 2_500 + 1000 * 15_000


def test_limits_of_main_models() -> None:
    """Window, input limit and output limit are three different things."""
    catalog = Catalog()
    gpt5 = catalog.model("openai", "gpt-5")
    assert gpt5 is not None
    assert (gpt5.context_total, gpt5.max_input, gpt5.max_output) == (400_000, 272_000, 128_000)
    mini = catalog.model("openai", "gpt-4o-mini")
    assert mini is not None
    assert (mini.context_total, mini.max_output, mini.tools, mini.images) == (128_000, 16_384, True, True)
    sonnet = catalog.model("anthropic", "claude-sonnet-4-5")
    assert sonnet is not None
    assert (sonnet.context_total, sonnet.max_output, sonnet.prefill, sonnet.reasoning) == (
        200_000,
        64_000,
        True,
        True,
    )


def document(provider: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        files("headrace.prices").joinpath("data", f"{provider}.json").read_bytes()
    )
    return loaded


def test_every_file_has_a_provider_and_every_provider_a_file() -> None:
    """The list of priced providers and the folder of data are the same."""
    found = {path.name.removesuffix(".json") for path in files("headrace.prices").joinpath("data").iterdir()}
    assert found == PRICED_PROVIDERS


@pytest.mark.parametrize("provider", sorted(PRICED_PROVIDERS))
def test_data_is_sorted_dated_and_sane(provider: str) -> None:
    """Every file names date and sources, is sorted, decodes, and prices no model at 0 or in dollars by mistake."""
    raw = document(provider)
    assert raw["provider"] == provider and raw["as_of"] >= "2026-11-24" and raw["sources"]
    assert list(raw["models"]) == sorted(raw["models"])
    catalog = Catalog()
    assert catalog.models(provider) == tuple(raw["models"])
    assert catalog.as_of(provider) == raw["as_of"]
    for id_ in raw["models"]:
        model = catalog.model(provider, id_)
        assert model is not None and model.provider == provider
        assert model.id == id_
        if model.prices is None:
            continue
        assert model.price_sources
        if model.prices.output == 0 and not id_.endswith(
            ":free"
        ):  # an embedding: never what can be talked to
            assert (model.max_output, model.context_total, model.tools) == (None, None, None), id_
            assert 1_000_000 <= model.prices.input <= 10_000_000_000, id_
            continue
        free = id_.endswith(":free")
        for price in (model.prices.input, model.prices.output):
            assert free or 1_000_000 <= price <= 1_000_000_000_000, (provider, id_, price)
        above = [tier.above for tier in model.tiers]
        assert above == sorted(set(above))
        for limit in (model.context_total, model.max_input, model.max_output):
            assert limit is None or limit > 0


def test_counts_of_the_cross_check_add_up() -> None:
    """Each file says for every model whether the sources agree, and lists each difference."""
    for provider in PRICED_PROVIDERS:
        raw = document(provider)
        checked = dict(raw["checked"])
        differences = checked.pop("differences")
        assert sum(checked.values()) == len(raw["models"])
        assert len(differences) == checked["differ"]
        assert differences.keys() <= raw["models"].keys()


def test_the_three_sources_agree_on_the_main_labs() -> None:
    """No OpenAI or Anthropic model is priced against another source."""
    for provider in ("openai", "anthropic"):
        assert document(provider)["checked"]["differ"] == 0
    for provider, model, *_ in HAND_CHECKED:
        assert model not in document(provider)["checked"]["differences"]
