from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from headrace.errors import ConfigError
from headrace.prices import Catalog, Dated, Model, ModelOverride, Prices, aliases
from headrace.types import Usage

MILLION = 1_000_000
SOME = Usage(input_tokens=1000, output_tokens=500)


def listed(provider: str, model: str, catalog: Catalog | None = None) -> str | None:
    found = (catalog or Catalog()).model(provider, model)
    return None if found is None else found.id


@pytest.mark.parametrize(
    ("provider", "asked", "answered"),
    [
        ("openai", "gpt-4o", "gpt-4o"),
        ("openai", "gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        ("openai", "gpt-4o-2031-01-02", "gpt-4o"),
        ("openai", "ft:gpt-4o-2024-08-06:acme:bot:9xyz", "ft:gpt-4o-2024-08-06"),
        ("anthropic", "claude-haiku-5-5-20261031", "claude-haiku-5-5"),
        ("anthropic", "claude-haiku-5-5@20261031", "claude-haiku-5-5"),
        ("anthropic", "claude-3-5-haiku", "claude-3-5-haiku-latest"),
        ("anthropic", "claude-sonnet-4-5-latest", "claude-sonnet-4-5"),
        ("gemini", "models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("gemini", "gemini-2.5-flash-001", "gemini-2.5-flash"),
        ("fireworks", "accounts/fireworks/models/deepseek-v3p2", "deepseek-v3p2"),
    ],
)
def test_a_snapshot_is_priced_as_its_family(provider: str, asked: str, answered: str) -> None:
    """The listed id goes first, then the rules of `aliases`."""
    assert listed(provider, asked) == answered


@pytest.mark.parametrize(
    ("provider", "asked"),
    [
        ("openai", "gpt-4o-new"),
        ("openai", "gpt-4o-mini-2"),
        ("openai", "gpt"),
        ("openai", ""),
        ("openai", "GPT-4o"),
        ("openai", "gpt-4o-2024-13-40"),
        ("openai", "ft:gpt-unknown:acme"),
        ("openai", "openai/gpt-4o"),
        ("anthropic", "claude-sonnet"),
        ("anthropic", "gpt-4o"),
        ("vllm", "gpt-4o"),
        ("../openai", "gpt-4o"),
        ("", "gpt-4o"),
    ],
)
def test_no_guess_across_models(provider: str, asked: str) -> None:
    """What is not listed has no model and no price: unknown, never 0."""
    assert Catalog().model(provider, asked) is None
    assert Catalog().cost(provider, asked, SOME) is None


def test_aliases_are_few_and_in_order() -> None:
    """The rules as they are written down."""
    assert list(aliases("anthropic", "a-b-20250929")) == ["a-b-20250929", "a-b", "a-b-latest"]
    assert list(aliases("anthropic", "a-b-latest")) == ["a-b-latest", "a-b"]
    assert list(aliases("openai", "a")) == ["a", "a-latest"]
    assert list(aliases("openai", "ft:a-2024-01-01:o:n:i")) == ["ft:a-2024-01-01:o:n:i", "ft:a-2024-01-01"]
    assert list(aliases("openai", "a-001")) == ["a-001", "a-001-latest"]


def test_local_costs_nothing_and_says_so() -> None:
    """The model on this machine has a known price of 0."""
    found = Catalog().model("local", "default")
    assert found is not None and found.price_sources == ("local",)
    assert Catalog().cost("local", "anything", SOME) == 0


def test_import_reads_no_data() -> None:
    """A fresh interpreter that makes a catalogue has read no price file; asking for one model reads one file."""
    code = (
        "import sys, headrace.prices as p\n"
        "opened = []\n"
        "sys.addaudithook(lambda e, a: opened.append(str(a[0])) if e == 'open' else None)\n"
        "c = p.Catalog()\n"
        "assert not [o for o in opened if o.endswith('.json')], opened\n"
        "c.model('groq', 'x')\n"
        "assert [o.rsplit('/', 1)[1] for o in opened if o.endswith('.json')] == ['groq.json'], opened\n"
        "assert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_override_replaces_all_prices() -> None:
    """A table with prices stands alone: neither the catalogue's cached prices nor its tiers are mixed in."""
    override = ModelOverride(input_usd_per_mtok="1.5", output_usd_per_mtok="9")
    catalog = Catalog({"gemini/gemini-2.5-pro": override})
    found = catalog.model("gemini", "gemini-2.5-pro")
    assert found is not None and found.prices is not None
    assert (found.prices.input, found.prices.output) == (1_500_000_000, 9_000_000_000)
    assert found.prices.cache_read is None and found.tiers == ()
    assert found.price_sources == ("config",)
    assert found.max_output == 65_536


def test_override_of_a_limit_keeps_the_prices() -> None:
    """A table without prices changes only what it says."""
    catalog = Catalog({"openai/gpt-5": ModelOverride(context_window=100_000, tools=False)})
    found, plain = catalog.model("openai", "gpt-5"), Catalog().model("openai", "gpt-5")
    assert found is not None and plain is not None
    assert found.prices == plain.prices
    assert (found.context_total, found.max_input, found.tools, found.images) == (
        100_000,
        100_000,
        False,
        True,
    )


def test_override_of_a_snapshot_starts_from_its_family() -> None:
    """An id that only the configuration lists keeps its family's prices and limits where it says nothing."""
    catalog = Catalog({"openai/gpt-4o-2031-01-02": ModelOverride(max_output=7)})
    found = catalog.model("openai", "gpt-4o-2031-01-02")
    assert found is not None
    assert found.max_output == 7
    assert catalog.cost("openai", "gpt-4o-2031-01-02", SOME) == Catalog().cost("openai", "gpt-4o", SOME)


def test_override_order() -> None:
    """An override of the id, the listed id, an override of the family, then `provider/*`."""
    one, two, rest = (
        ModelOverride(input_usd_per_mtok=usd, output_usd_per_mtok=usd) for usd in ("1", "2", "3")
    )
    catalog = Catalog({"openai/gpt-4o": one, "openai/mine": two, "openai/*": rest})
    million = Usage(input_tokens=1_000_000)
    assert catalog.cost("openai", "gpt-4o", million) == 1_000_000_000
    assert catalog.cost("openai", "gpt-4o-2024-08-06", million) == 2_500_000_000
    assert catalog.cost("openai", "gpt-4o-2031-01-02", million) == 1_000_000_000
    assert catalog.cost("openai", "mine", million) == 2_000_000_000
    assert catalog.cost("openai", "other", million) == 3_000_000_000
    assert catalog.cost("vllm", "other", million) is None
    assert "mine" in catalog.models("openai") and "*" not in catalog.models("openai")


def test_a_free_server_of_ones_own_is_priced_zero_by_the_configuration() -> None:
    """`provider/*` at 0 makes a self-hosted server known and free."""
    free = ModelOverride(input_usd_per_mtok="0", output_usd_per_mtok="0")
    assert Catalog({"vllm/*": free}).cost("vllm", "Qwen/Qwen3-8B", SOME) == 0


def test_model_ids_with_slashes_can_be_overridden() -> None:
    """Only the first slash parts provider and model."""
    override = ModelOverride(input_usd_per_mtok="1", output_usd_per_mtok="1")
    assert listed("openrouter", "a/b", Catalog({"openrouter/a/b": override})) == "a/b"


@pytest.mark.parametrize(
    "bad", [3.0, 3, True, "", "3,00", "-1", "1e3", "NaN", " 3", "3.", ".5", "0.0000000001", "1234567", "٣"]
)
def test_a_price_that_is_no_exact_decimal_is_refused(bad: object) -> None:
    """Floats, signs, exponents and commas are refused, and the message says where and how to write it."""
    override = ModelOverride(input_usd_per_mtok=bad, output_usd_per_mtok="1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r'prices\."openai/x"\.input_usd_per_mtok is .*"3\.00"'):
        Catalog({"openai/x": override})


def test_half_a_price_is_refused() -> None:
    """Input without output would leave half of the bill unknown."""
    with pytest.raises(ConfigError, match="output_usd_per_mtok must be given"):
        Catalog({"openai/x": ModelOverride(input_usd_per_mtok="1")})


@pytest.mark.parametrize("name", ["gpt-4o", "/gpt-4o", "openai/", ""])
def test_an_override_needs_provider_and_model(name: str) -> None:
    """The name of the table is `provider/model`."""
    with pytest.raises(ConfigError, match="must be provider/model"):
        Catalog({name: ModelOverride(tools=True)})


def test_a_limit_below_one_is_refused() -> None:
    """A window of 0 tokens is a mistake."""
    with pytest.raises(ConfigError, match=r"context_window is 0"):
        Catalog({"openai/x": ModelOverride(context_window=0)})


def test_from_settings_reads_tables() -> None:
    """A table of the configuration becomes an override."""
    table = {"input_usd_per_mtok": "0.5", "output_usd_per_mtok": "1", "context_window": 4096, "tools": True}
    found = Catalog.from_settings({"vllm/qwen": table}).model("vllm", "qwen")
    assert found is not None and found.prices is not None
    assert (found.prices.input, found.context_total, found.tools) == (500_000_000, 4096, True)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"input_usd_per_mtok": 0.5, "output_usd_per_mtok": "1"}, "write the decimal in quotes"),
        ({"price": "1"}, "unknown field `price`"),
        ({"context_window": "4096"}, "Expected `int"),
    ],
)
def test_from_settings_refuses_what_is_wrong(table: dict[str, object], said: str) -> None:
    """The message names the table and the member."""
    with pytest.raises(ConfigError, match=r'prices\."vllm/qwen"') as caught:
        Catalog.from_settings({"vllm/qwen": table})
    assert said in caught.value.message


def test_a_price_changes_on_its_day() -> None:
    """At midnight UTC, once and for good; what the catalogue costs before stays until then, and each change has its own."""
    wall = [datetime(2026, 12, 31, 23, 59, 59, 999_000, UTC).timestamp()]
    later = {"input_usd_per_mtok": "4", "output_usd_per_mtok": "20"}
    latest = {"input_usd_per_mtok": "1", "output_usd_per_mtok": "2"}
    table: dict[str, object] = {"later": {"2027-06-01": latest, "2027-01-01": later}}
    catalog = Catalog.from_settings({"openai/gpt-4o": table}, wall=lambda: wall[0])
    usage = Usage(input_tokens=MILLION, output_tokens=MILLION)
    assert catalog.cost("openai", "gpt-4o", usage) == 12_500_000_000
    wall[0] += 0.001
    assert catalog.cost("openai", "gpt-4o", usage) == 24_000_000_000
    wall[0] = datetime(2027, 6, 1, tzinfo=UTC).timestamp()
    assert catalog.cost("openai", "gpt-4o", usage) == 3_000_000_000
    model = catalog.model("openai", "gpt-4o")
    assert model is not None and model.at_most(MILLION, MILLION, hour=False) == 3_000_000_000
    assert [dated.since for dated in model.later] == ["2027-01-01", "2027-06-01"]


def test_prices_of_the_configuration_are_not_followed_by_the_catalogues() -> None:
    """Who says what a model costs says it for later too."""
    dated = Dated(since="2027-01-01", prices=Prices(input=1, output=1))
    model = Model(prices=Prices(input=5, output=5), later=(dated,))
    own = ModelOverride(input_usd_per_mtok="3", output_usd_per_mtok="3").applied(model, "x")
    assert own.later == () and own.at(4e9)[0].prices == own.prices
    assert ModelOverride(max_output=5).applied(model, "x").later == (dated,)


@pytest.mark.parametrize(
    ("later", "said"),
    [
        ({"2027-13-01": {"input_usd_per_mtok": "1", "output_usd_per_mtok": "1"}}, "is no day"),
        ({"2027-01-01": {"input_usd_per_mtok": "1"}}, "output_usd_per_mtok must be given"),
        ({"2027-01-01": {}}, "gives no price"),
    ],
)
def test_a_dated_price_that_is_wrong_is_refused(later: dict[str, object], said: str) -> None:
    """With the day."""
    with pytest.raises(ConfigError, match=said):
        Catalog.from_settings({"openai/gpt-4o": {"later": later}})
