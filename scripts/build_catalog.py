"""Write `src/headrace/prices/data/<provider>.json` from three published price lists, and say where they disagree.

A developer runs this, never the product::

    pip download --no-deps --dest wheels genai-prices==0.2.3 model-prices==0.0.5 litellm==1.109.1
    pip install pydantic httpx2          # what genai-prices imports
    python scripts/build_catalog.py wheels --as-of 2026-11-24

The first two wheels are imported from where they lie; of the third only one JSON file is read, its code never runs.

The rules, in order:

1. A price is what the majority of the sources says about input and output. Where two sources disagree and no third one
   breaks the tie, `PRECEDENCE` decides. Every disagreement is printed and kept in the file's `checked`.
2. Members that the chosen source does not have (a cached read, a tier) are filled from sources that agree with it on input
   and output, and from no other.
3. Where the hours of the day have different prices, the highest is kept.
4. A price of zero means that the source does not know, except for OpenRouter's `:free` models, and one above `DEAREST` is a
   slip of the source (a price by the thousand tokens); both input and output must be known, or the model has no price.
5. Models that answer in audio, images or video are left out: `Usage` does not count those tokens apart, and pricing them as
   text would be far too low.
6. Embeddings put out no tokens: their output costs 0, and only text in has a price. Models whose other inputs (images, audio) cost more are
   left out, and so are limits: theirs are of one text, not of a request.
7. `context_total` is the largest window that a source gives; `max_input` and `max_output` are litellm's.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

WHEELS = {"genai-prices": "0.2.3", "model-prices": "0.0.5", "litellm": "1.109.1"}
PRECEDENCE = ("litellm", "genai-prices", "model-prices")
"""litellm first: the freshest, and it links the provider's own page; model-prices last: a month older."""

DATA = Path(__file__).resolve().parent.parent / "src" / "headrace" / "prices" / "data"
LITELLM_JSON = "litellm/model_prices_and_context_window_backup.json"
NANO_PER_USD = 1_000_000_000
DEAREST = 1_000 * NANO_PER_USD
"""Per million tokens; the dearest model that ever was (o1-pro) costs 600 dollars."""
DEAREST_EMBEDDING = 10 * NANO_PER_USD
"""The dearest embedding that is sold costs 0.18 dollars; 100 is a price by the thousand tokens."""
KINDS = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning")


@dataclass(frozen=True)
class Names:
    """What the sources call one provider; `litellm` in order of preference; `strip` are prefixes of its model ids."""

    litellm: tuple[str, ...] = ()
    strip: tuple[str, ...] = ()
    genai: str = ""
    model_prices: str = ""
    skip: str = r"(?!)"


PROVIDERS: Mapping[str, Names] = {
    "anthropic": Names(("anthropic",), (), "anthropic", "anthropic"),
    "azure": Names(("azure", "azure_ai"), ("azure/", "azure_ai/"), "azure"),
    "bedrock": Names(("bedrock_converse", "bedrock"), (), "aws", "amazon-bedrock", skip=r"bedrock/|invoke/"),
    "cerebras": Names(("cerebras",), ("cerebras/",), "cerebras"),
    "cohere": Names(("cohere_chat",), (), "cohere", "cohere"),
    "deepseek": Names(("deepseek",), ("deepseek/",), "deepseek", "deepseek"),
    "fireworks": Names(
        ("fireworks_ai",), ("fireworks_ai/accounts/fireworks/models/", "fireworks_ai/"), "fireworks"
    ),
    "gemini": Names(("gemini",), ("gemini/",), "google", "google"),
    "groq": Names(("groq",), ("groq/",), "groq"),
    "mistral": Names(("mistral",), ("mistral/",), "mistral", "mistral"),
    "openai": Names(("openai",), (), "openai", "openai", skip=r"openai/"),
    "openrouter": Names((), (), "openrouter"),
    "perplexity": Names(("perplexity",), ("perplexity/",), "perplexity", "perplexity"),
    "together": Names(("together_ai",), ("together_ai/",), "together", skip=r"together-ai-"),
    "xai": Names(("xai",), ("xai/",), "x-ai", "xai"),
}

NOT_TEXT = re.compile(
    r"audio|realtime|tts|whisper|transcri|image|imagen|veo|lyria|dall-e|flux|stable-diffusion|sdxl|ssd-1b|playground|"
    r"embed|rerank|moderation|prompt-guard|-live|container|bge-|e5-|gte-|orpheus|speech|video|sora|ocr|nano-banana|"
    r"gemini-omni"
)


EMBEDDING = "embedding"
MODES = ("chat", "responses", EMBEDDING)


@dataclass
class Rates:
    """One source's prices of one model, in nano-dollars per million tokens; `tiers` by input size."""

    base: dict[str, int]
    tiers: dict[int, dict[str, int]] = field(default_factory=dict)

    def pair(self) -> tuple[int, int]:
        return self.base["input"], self.base["output"]


def nano_per_million(usd_per_million: Decimal | float | str) -> int:
    """To the nearest nano-dollar; below it are only the digits of binary floats (0.056000000000000005) and thirds."""
    return int((Decimal(str(usd_per_million)) * NANO_PER_USD).to_integral_value(ROUND_HALF_UP))


def usable(rates: Rates, model: str, *, embeds: bool) -> Rates | None:
    """Apply rules 4 and 6, and drop tiers that say nothing new."""
    if embeds:
        price = rates.base.get("input", 0)
        return Rates({"input": price, "output": 0}) if 0 < price <= DEAREST_EMBEDDING else None
    free = model.endswith(":free")
    base = {kind: price for kind, price in rates.base.items() if 0 < price <= DEAREST or free}
    if base.keys() < {"input", "output"} or not {"input", "output"} <= base.keys():
        return None
    if base.get("reasoning") == base["output"]:
        del base["reasoning"]
    tiers: dict[int, dict[str, int]] = {}
    before = base
    for above in sorted(rates.tiers):
        said = {k: p for k, p in rates.tiers[above].items() if p > 0}
        now = {**before, **said}
        if now != before:
            tiers[above] = said
        before = now
    return Rates(base, tiers)


# --- the three sources -------------------------------------------------------------------------------------------------


class LiteLLM:
    name = "litellm"
    KEYS: Mapping[str, str] = {
        "input": "input_cost_per_token",
        "output": "output_cost_per_token",
        "cache_read": "cache_read_input_token_cost",
        "cache_write": "cache_creation_input_token_cost",
        "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
        "reasoning": "output_cost_per_reasoning_token",
    }

    def __init__(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            self.rows: dict[str, dict[str, Any]] = json.loads(archive.read(LITELLM_JSON), parse_float=Decimal)

    def models(self, names: Names) -> dict[str, dict[str, Any]]:
        """Id at the provider to row; a provider's first name and shortest id win."""
        found: dict[str, dict[str, Any]] = {}
        for provider in names.litellm:
            for key, row in self.rows.items():
                if row.get("litellm_provider") != provider or row.get("mode") not in MODES:
                    continue
                if row["mode"] == EMBEDDING and any(re.search("_(audio|image|video)", name) for name in row):
                    continue
                if re.match(names.skip, key) or row.get("output_cost_per_image"):
                    continue
                if row.get("output_cost_per_audio_token") or row.get("supports_audio_output"):
                    continue
                for prefix in names.strip:
                    if key.startswith(prefix):
                        key = key.removeprefix(prefix)
                        break
                found.setdefault(key, row)
        return found

    def rates(self, row: Mapping[str, Any]) -> Rates:
        base: dict[str, int] = {}
        tiers: dict[int, dict[str, int]] = {}
        for kind, key in self.KEYS.items():
            for name, value in row.items():
                if name == key:
                    base[kind] = nano_per_million(value * 1_000_000)
                elif (
                    match := re.fullmatch(re.escape(key) + r"_above_(\d+)k_tokens", name)
                ) and value is not None:
                    tiers.setdefault(int(match[1]) * 1000, {})[kind] = nano_per_million(value * 1_000_000)
        return Rates(base, tiers)


class ModelPrices:
    name = "model-prices"

    def __init__(self, wheel: Path, as_of: datetime) -> None:
        sys.path.insert(0, str(wheel))
        import model_prices  # type: ignore[import-not-found]

        self.package = model_prices
        self.as_of = as_of
        with zipfile.ZipFile(wheel) as archive:
            self.snapshot = json.loads(archive.read("model_prices/snapshot.json"))

    def models(self, names: Names) -> list[str]:
        return list(self.snapshot["prices"].get(names.model_prices, ()))

    def rates(self, names: Names, model: str) -> Rates | None:
        found = [
            rates
            for hour in range(24)
            if (rates := self.package.rates(model, self.as_of + timedelta(hours=hour), names.model_prices))
        ]
        if not found:
            return None
        top = max(found, key=lambda rates: rates.input)
        base = {k: getattr(top, k) for k in ("input", "output", "cache_read", "cache_write")}
        if top.cache_write is not None and top.cache_write_1h_multiple is not None:
            base["cache_write_1h"] = Decimal(str(top.input)) * Decimal(str(top.cache_write_1h_multiple))
        tiers = {
            tier.above: {
                k: nano_per_million(price)
                for k in ("input", "output", "cache_read", "cache_write")
                if (price := getattr(tier, k)) is not None
            }
            for tier in top.tiers
        }
        return Rates({k: nano_per_million(p) for k, p in base.items() if p is not None}, tiers)


class GenaiPrices:
    name = "genai-prices"
    KEYS: Mapping[str, str] = {
        "input": "input_mtok",
        "output": "output_mtok",
        "cache_read": "cache_read_mtok",
        "cache_write": "cache_write_mtok",
        "cache_write_1h": "cache_write_1h_mtok",
        "reasoning": "output_reasoning_mtok",
    }

    def __init__(self, wheel: Path, as_of: datetime) -> None:
        sys.path.insert(0, str(wheel))
        from genai_prices.data import providers  # type: ignore[import-not-found]

        self.providers = {provider.id: provider for provider in providers}
        self.as_of = as_of

    def models(self, names: Names) -> dict[str, Any]:
        provider = self.providers.get(names.genai)
        return {} if provider is None else {m.id: m for m in provider.models if m.is_match(m.id)}

    def find(self, names: Names, model: str) -> Any:
        provider = self.providers.get(names.genai)
        if provider is None:
            return None
        return next((m for m in provider.models if m.is_match(model)), None)

    def rates(self, info: Any) -> Rates:
        prices = max(
            (info.get_prices(self.as_of + timedelta(hours=hour)) for hour in range(24)),
            key=lambda p: _base(getattr(p, "input_mtok", None)),
        )
        base: dict[str, int] = {}
        tiers: dict[int, dict[str, int]] = {}
        for kind, key in self.KEYS.items():
            price = getattr(prices, key, None)
            if price is None:
                continue
            base[kind] = nano_per_million(_base(price))
            for tier in getattr(price, "tiers", ()):
                tiers.setdefault(tier.start, {})[kind] = nano_per_million(tier.price)
        return Rates(base, tiers)


def _base(price: Any) -> Decimal:
    return Decimal(0) if price is None else getattr(price, "base", price)


# --- the merge ---------------------------------------------------------------------------------------------------------


def choose(said: Mapping[str, Rates]) -> tuple[Rates | None, list[str]]:
    """The prices by rules 1 and 2, and the sources that agree with them."""
    if not said:
        return None, []
    votes = Counter(rates.pair() for rates in said.values())
    pair = max(
        votes, key=lambda p: (votes[p], -min(PRECEDENCE.index(s) for s in said if said[s].pair() == p))
    )
    agree = [source for source in PRECEDENCE if source in said and said[source].pair() == pair]
    base: dict[str, int] = {}
    tiers: dict[int, dict[str, int]] = {}
    for source in agree:
        for kind, price in said[source].base.items():
            base.setdefault(kind, price)
        # A tier table is taken whole from the first that has one: mixing two would make a third.
        tiers = tiers or said[source].tiers
    return Rates(base, tiers), agree


CAPABILITIES: Mapping[str, tuple[str, ...]] = {
    "tools": ("supports_function_calling",),
    "images": ("supports_vision", "supports_image_input"),
    "documents": ("supports_pdf_input",),
    "json_schema": ("supports_response_schema", "supports_native_structured_output"),
    "reasoning": ("supports_reasoning",),
    "prefill": ("supports_assistant_prefill",),
}


def capabilities(row: Mapping[str, Any]) -> dict[str, bool]:
    """litellm writes a flag only where it looked: an absent one is unknown, and stays out."""
    found: dict[str, bool] = {}
    for ours, theirs in CAPABILITIES.items():
        flags = [bool(row[flag]) for flag in theirs if row.get(flag) is not None]
        if flags:
            found[ours] = any(flags)
    return found


def size(value: Any) -> int | None:
    return int(value) if isinstance(value, int | Decimal) and value > 0 else None


def dollars(pair: tuple[int, int]) -> str:
    return "/".join(f"{Decimal(p) / NANO_PER_USD:f}" for p in pair)


def build(
    names: Names, litellm: LiteLLM, genai: GenaiPrices, model_prices: ModelPrices
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Every model of one provider, and what the comparison of its prices found."""
    rows, infos = litellm.models(names), genai.models(names)
    embeddings = {i for i, row in rows.items() if row["mode"] == EMBEDDING}
    ids = {i for i in {*rows, *infos, *model_prices.models(names)} if not NOT_TEXT.search(i)} | embeddings
    models: dict[str, dict[str, Any]] = {}
    tally: Counter[str] = Counter()
    differ: dict[str, str] = {}
    for model in sorted(ids):
        row, embeds = rows.get(model, {}), model in embeddings
        said: dict[str, Rates] = {}
        for source, rates in (
            ("litellm", litellm.rates(row) if row else None),
            (
                "model-prices",
                model_prices.rates(names, model) if model in model_prices.models(names) else None,
            ),
            ("genai-prices", genai.rates(info) if (info := genai.find(names, model)) else None),
        ):
            if rates is not None and (good := usable(rates, model, embeds=embeds)) is not None:
                said[source] = good
        prices, agree = choose(said)
        entry: dict[str, Any] = {}
        if prices is not None:
            entry["prices"] = {k: prices.base[k] for k in KINDS if k in prices.base}
            if prices.tiers:
                entry["tiers"] = [
                    {"above": above, **{k: tier[k] for k in KINDS if k in tier}}
                    for above, tier in sorted(prices.tiers.items())
                ]
            entry["price_sources"] = agree
        max_input = size(row.get("max_input_tokens"))
        window = size(getattr(genai.find(names, model), "context_window", None))
        total = max((n for n in (max_input, window) if n is not None), default=None)
        limits = {
            k: v
            for k, v in {
                "context_total": total,
                "max_input": max_input,
                "max_output": size(row.get("max_output_tokens")),
            }.items()
            if v is not None
        }
        if not embeds:
            entry |= limits | capabilities(row)
        if not entry:
            continue
        models[model] = entry
        if prices is None:
            tally["unpriced"] += 1
        elif len(said) == 1:
            tally["one source"] += 1
        elif len(agree) == len(said):
            tally["agree"] += 1
        else:
            tally["differ"] += 1
            differ[model] = ", ".join(
                f"{source} {dollars(said[source].pair())}" for source in PRECEDENCE if source in said
            )
    return models, {
        **{k: tally[k] for k in ("agree", "differ", "one source", "unpriced")},
        "differences": differ,
    }


def lines(document: Mapping[str, Any]) -> Iterator[str]:
    """JSON with one model or difference a line, so that a diff shows what changed."""
    yield "{"
    members = [(k, v) for k, v in document.items() if k not in ("models", "checked")]
    for key, value in members:
        yield f"  {json.dumps(key)}: {json.dumps(value)},"
    checked = dict(document["checked"])
    differences = checked.pop("differences")
    yield '  "checked": {'
    for key, value in checked.items():
        yield f"    {json.dumps(key)}: {value},"
    yield from table("differences", differences, indent="    ")
    yield "  },"
    yield from table("models", document["models"], indent="  ")
    yield "}"


def table(name: str, rows: Mapping[str, Any], indent: str) -> Iterator[str]:
    if not rows:
        yield f"{indent}{json.dumps(name)}: {{}}"
        return
    yield f"{indent}{json.dumps(name)}: {{"
    for number, (key, value) in enumerate(rows.items(), 1):
        comma = "," if number < len(rows) else ""
        text = json.dumps(value, separators=(",", ":")) if isinstance(value, dict) else json.dumps(value)
        yield f"{indent}  {json.dumps(key)}: {text}{comma}"
    yield f"{indent}}}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("wheels", type=Path, help="the folder with the three wheels")
    parser.add_argument(
        "--as-of", default=datetime.now(UTC).date().isoformat(), help="prices on this day, UTC"
    )
    parser.add_argument("--to", type=Path, default=DATA)
    arguments = parser.parse_args()

    def wheel(package: str) -> Path:
        pattern = f"{package.replace('-', '_')}-{WHEELS[package]}-*.whl"
        found = sorted(arguments.wheels.glob(pattern))
        if not found:
            sys.exit(
                f"no {pattern} in {arguments.wheels}: pip download --no-deps {package}=={WHEELS[package]}"
            )
        path: Path = found[0]
        return path.resolve()

    as_of = datetime.fromisoformat(arguments.as_of).replace(tzinfo=UTC)
    litellm = LiteLLM(wheel("litellm"))
    genai = GenaiPrices(wheel("genai-prices"), as_of)
    model_prices = ModelPrices(wheel("model-prices"), as_of)
    arguments.to.mkdir(parents=True, exist_ok=True)
    total: Counter[str] = Counter()
    for provider, names in PROVIDERS.items():
        models, checked = build(names, litellm, genai, model_prices)
        document = {
            "provider": provider,
            "as_of": arguments.as_of,
            "sources": [f"{package} {version} (MIT)" for package, version in sorted(WHEELS.items())],
            "unit": "nano-dollars per million tokens",
            "checked": checked,
            "models": models,
        }
        path = arguments.to / f"{provider}.json"
        path.write_text("\n".join(lines(document)) + "\n", encoding="utf-8")
        counts = {k: v for k, v in checked.items() if k != "differences"}
        total.update(counts)
        print(f"{provider:11} {len(models):4} models  {counts}  {path.stat().st_size // 1024} KiB")
        for model, what in checked["differences"].items():
            print(f"    {model}: {what}")
    print(f"all: {dict(total)}")


if __name__ == "__main__":
    main()
