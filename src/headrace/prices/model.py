"""One model's prices and limits, and the arithmetic of a cost; pure."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import Decimal

import msgspec

from headrace.call import Nanodollars
from headrace.errors import ConfigError
from headrace.types import Usage

__all__ = ["LOCAL", "Dated", "Model", "ModelOverride", "PriceOverride", "Prices", "Tier"]

MILLION = 1_000_000
NANO_PER_USD = 1_000_000_000


class Prices(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Nano-dollars per million tokens, each 0 or more.

    Where a kind has no price of its own: a cached read costs as `input` (an upper bound, a read is never dearer); a cache
    write as `input` (providers that charge extra for writes publish it); a write kept for an hour twice `input`, or as
    `cache_write` if that is more (Anthropic, who alone sells it, charges twice the input of every model); reasoning and images that
    are put out as `output`. Images that are put in cost as `input`, as their providers count them.
    """

    input: int
    output: int
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    image: int | None = None


class Tier(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prices of a request whose whole input is more than `above` tokens; they hold for all of its tokens.

    What is None stays as it was below.
    """

    above: int
    input: int | None = None
    output: int | None = None
    cache_read: int | None = None
    cache_write: int | None = None
    cache_write_1h: int | None = None
    reasoning: int | None = None
    image: int | None = None


class Dated(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Prices from the beginning of the day `since` (`2027-01-01`, UTC) on, in place of all before."""

    since: str
    prices: Prices
    tiers: tuple[Tier, ...] = ()

    @property
    def wall(self) -> float:
        """That moment, in seconds since 1970."""
        return datetime.fromisoformat(self.since).replace(tzinfo=UTC).timestamp()


class Model(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model as its provider sells it.

    `prices` is None while unknown. Limits are tokens, None while unknown: `context_total` is the window for input and output
    together, `max_input` and `max_output` the limits of each (gpt-5: 400,000 in all, at most 272,000 of them input).
    Capabilities are None where no source says. `price_sources` are those that agree on the prices; `config` for an override. `later` are
    prices that hold from a day on, the earliest first.
    """

    provider: str = ""
    id: str = ""
    prices: Prices | None = None
    tiers: tuple[Tier, ...] = ()
    later: tuple[Dated, ...] = ()
    price_sources: tuple[str, ...] = ()
    context_total: int | None = None
    max_input: int | None = None
    max_output: int | None = None
    tools: bool | None = None
    images: bool | None = None
    documents: bool | None = None
    json_schema: bool | None = None
    reasoning: bool | None = None
    prefill: bool | None = None

    def at(self, wall: float) -> tuple[Model, float]:
        """The model as it is sold at the wall time `wall`, and until when; infinity where no change is known."""
        now, until = self, float("inf")
        for dated in self.later:
            if dated.wall > wall:
                until = dated.wall
                break
            now = msgspec.structs.replace(self, prices=dated.prices, tiers=dated.tiers)
        return now, until

    def prices_at(self, input_tokens: int) -> Prices | None:
        """The prices of a request with `input_tokens` in all, cached or not; tiers are in rising order."""
        prices = self.prices
        if prices is None:
            return None
        for tier in self.tiers:
            if input_tokens <= tier.above:
                break
            prices = Prices(
                input=prices.input if tier.input is None else tier.input,
                output=prices.output if tier.output is None else tier.output,
                cache_read=prices.cache_read if tier.cache_read is None else tier.cache_read,
                cache_write=prices.cache_write if tier.cache_write is None else tier.cache_write,
                cache_write_1h=prices.cache_write_1h if tier.cache_write_1h is None else tier.cache_write_1h,
                reasoning=prices.reasoning if tier.reasoning is None else tier.reasoning,
                image=prices.image if tier.image is None else tier.image,
            )
        return prices

    def cost(self, usage: Usage) -> Nanodollars | None:
        """What `usage` costs, rounded up to a nano-dollar; None if the price is unknown.

        Counts that contradict each other are charged at the larger reading (more cached than input in all: all that is
        cached), and a negative count as 0: an upstream's arithmetic never gives money back.
        """
        read = max(0, usage.cache_read_tokens)
        hour = max(0, usage.cache_write_1h_tokens)
        minutes = max(0, usage.cache_write_tokens - hour)
        fresh = max(0, usage.input_tokens - read - hour - minutes)
        thinking = max(0, usage.reasoning_tokens)
        drawn = max(0, usage.image_tokens)
        said = max(0, usage.output_tokens - thinking - drawn)
        prices = self.prices_at(fresh + read + hour + minutes)
        if prices is None:
            return None
        total = fresh * prices.input + said * prices.output
        if read:
            total += read * (prices.input if prices.cache_read is None else prices.cache_read)
        if minutes or hour:
            write = prices.input if prices.cache_write is None else prices.cache_write
            total += minutes * write
            total += hour * (
                max(write, 2 * prices.input) if prices.cache_write_1h is None else prices.cache_write_1h
            )
        if thinking:
            total += thinking * (prices.output if prices.reasoning is None else prices.reasoning)
        if drawn:
            total += drawn * (prices.output if prices.image is None else prices.image)
        return -(-total // MILLION)

    def at_most(self, input_tokens: int, output_tokens: int, *, hour: bool = True) -> Nanodollars | None:
        """The most that so many tokens can cost, whatever of the input is read from or written to a cache (for an `hour`, or not) and
        whatever of the output is thinking or images; None if the price is unknown."""
        prices = self.prices_at(input_tokens)
        if prices is None:
            return None
        write = prices.input if prices.cache_write is None else prices.cache_write
        dearest = max(prices.input, write, prices.cache_read or 0)
        if hour:
            kept = prices.cache_write_1h
            dearest = max(dearest, max(write, 2 * prices.input) if kept is None else kept)
        output = max(prices.output, prices.reasoning or 0, prices.image or 0)
        return -(-(input_tokens * dearest + output_tokens * output) // MILLION)


LOCAL = Prices(input=0, output=0)
"""The price of a model on one's own machine: nothing, and known."""


class PriceOverride(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """US dollars per million tokens as decimals in quotes (`"0.075"`), read exactly; a binary float could not be. If one price is
    given, `input_usd_per_mtok` and `output_usd_per_mtok` must be."""

    input_usd_per_mtok: str | None = None
    output_usd_per_mtok: str | None = None
    cache_read_usd_per_mtok: str | None = None
    cache_write_usd_per_mtok: str | None = None
    cache_write_1h_usd_per_mtok: str | None = None
    reasoning_usd_per_mtok: str | None = None
    image_usd_per_mtok: str | None = None

    def prices(self, where: str) -> Prices | None:
        """The prices, or None if it gives none.

        Raises:
            ConfigError: A price is not such a decimal, or input or output is missing; `where` names the table.
        """
        said = {
            "input": self.input_usd_per_mtok,
            "output": self.output_usd_per_mtok,
            "cache_read": self.cache_read_usd_per_mtok,
            "cache_write": self.cache_write_usd_per_mtok,
            "cache_write_1h": self.cache_write_1h_usd_per_mtok,
            "reasoning": self.reasoning_usd_per_mtok,
            "image": self.image_usd_per_mtok,
        }
        read = {
            kind: _nano_per_million(value, f"{where}.{kind}_usd_per_mtok")
            for kind, value in said.items()
            if value is not None
        }
        if not read:
            return None
        missing = [f"{kind}_usd_per_mtok" for kind in ("input", "output") if kind not in read]
        if missing:
            raise ConfigError(f"{where}: {' and '.join(missing)} must be given when another price is")
        return Prices(**read)


class ModelOverride(PriceOverride, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the configuration says about a model: `[prices."provider/model"]`.

    Prices replace all that the catalogue has, tiers and later ones too; without any, the catalogue's stay. `later` are prices from
    a day on, by that day (`2027-01-01`, UTC). Limits are tokens.
    """

    later: dict[str, PriceOverride] = {}
    context_window: int | None = None
    max_input: int | None = None
    max_output: int | None = None
    tools: bool | None = None
    images: bool | None = None
    documents: bool | None = None
    json_schema: bool | None = None
    reasoning: bool | None = None
    prefill: bool | None = None

    def applied(self, model: Model, where: str) -> Model:
        """`model` with what the override says.

        Raises:
            ConfigError: As `prices`, a limit below 1, or a day that is none.
        """
        limits = {
            "context_window": self.context_window,
            "max_input": self.max_input,
            "max_output": self.max_output,
        }
        for name, limit in limits.items():
            if limit is not None and limit < 1:
                raise ConfigError(f"{where}.{name} is {limit}; it must be 1 token or more")
        prices = self.prices(where)
        later = tuple(_dated(day, self.later[day], f'{where}."{day}"') for day in sorted(self.later))
        context_total, max_input = model.context_total, model.max_input
        if self.context_window is not None:
            # A smaller window bounds the catalogue's input limit too; a larger one does not lift it.
            context_total = self.context_window
            max_input = None if max_input is None else min(max_input, context_total)
        return Model(
            provider=model.provider,
            id=model.id,
            prices=model.prices if prices is None else prices,
            tiers=model.tiers if prices is None else (),
            later=later or (model.later if prices is None else ()),
            price_sources=model.price_sources if prices is None else ("config",),
            context_total=context_total,
            max_input=max_input if self.max_input is None else self.max_input,
            max_output=model.max_output if self.max_output is None else self.max_output,
            tools=model.tools if self.tools is None else self.tools,
            images=model.images if self.images is None else self.images,
            documents=model.documents if self.documents is None else self.documents,
            json_schema=model.json_schema if self.json_schema is None else self.json_schema,
            reasoning=model.reasoning if self.reasoning is None else self.reasoning,
            prefill=model.prefill if self.prefill is None else self.prefill,
        )


def _dated(day: str, override: PriceOverride, where: str) -> Dated:
    prices = override.prices(where)
    if prices is None:
        raise ConfigError(f"{where} gives no price")
    try:
        date.fromisoformat(day)
    except ValueError:
        raise ConfigError(f"{where}: {day!r} is no day; write it as 2027-01-01") from None
    return Dated(since=day, prices=prices)


_DECIMAL = re.compile(r"[0-9]{1,6}(\.[0-9]{1,9})?")
"""Up to a million dollars a million tokens; nine decimals are a nano-dollar."""


def _nano_per_million(value: object, where: str) -> int:
    if not isinstance(value, str):
        raise ConfigError(f'{where} is {value!r}; write the decimal in quotes, such as "3.00"')
    if not _DECIMAL.fullmatch(value):
        raise ConfigError(
            f'{where} is {value!r}; it must be US dollars per million tokens, such as "3.00", '
            "with at most 6 digits before the point and 9 after it"
        )
    return int(Decimal(value) * NANO_PER_USD)
