"""Which price belongs to which model id."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from types import MappingProxyType

import msgspec

from headrace.call import Nanodollars
from headrace.clock import SystemClock
from headrace.errors import ConfigError
from headrace.prices.model import LOCAL, Model, ModelOverride
from headrace.types import Usage

__all__ = ["PRICED_PROVIDERS", "Catalog", "aliases"]

PRICED_PROVIDERS = frozenset(
    {
        "anthropic",
        "azure",
        "bedrock",
        "cerebras",
        "cohere",
        "deepseek",
        "fireworks",
        "gemini",
        "groq",
        "mistral",
        "openai",
        "openrouter",
        "perplexity",
        "together",
        "xai",
    }
)
"""The providers that have a data file."""

PRICED_KEPT = 4096
"""Names whose model is remembered; a caller may name anything, so there is a bound."""

_DATE = re.compile(r"[-@](19|20)\d\d-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])$")
_REVISION = re.compile(r"-0\d\d$")
_PREFIXES = MappingProxyType({"gemini": "models/", "fireworks": "accounts/fireworks/models/"})


def aliases(provider: str, model: str) -> Iterator[str]:
    """The ids under which `model` may be listed, the likeliest first; pure. Each rule only leaves off or adds what does
    not name another model:

    1. the id itself, for gemini without `models/`, for fireworks without `accounts/fireworks/models/`;
    2. of a fine-tuned model of openai or azure (`ft:gpt-4o-2024-08-06:org:name:id`) the first two parts, and nothing further:
       a tuned model has its own price;
    3. without the date of a snapshot (`-20250929`, `-2025-09-29`, `@20250929`), for gemini without a revision (`-001`): a
       snapshot that is not listed costs what its family costs;
    4. without `-latest`;
    5. with `-latest`, for families listed only so.
    """
    model = model.removeprefix(_PREFIXES.get(provider, ""))
    yield model
    if model.startswith("ft:"):
        tuned = ":".join(model.split(":", 2)[:2])
        if tuned != model:
            yield tuned
        return
    family = _DATE.sub("", model)
    if provider == "gemini":
        family = _REVISION.sub("", family)
    family = family.removesuffix("-latest")
    if family != model:
        yield family
    if (newest := f"{family}-latest") != model:
        yield newest


class _File(msgspec.Struct, frozen=True):
    """`data/<provider>.json`; a model is decoded when it is asked for."""

    as_of: str
    sources: tuple[str, ...]
    models: dict[str, msgspec.Raw]


class Catalog:
    """Models by provider and id: the packaged figures, with `overrides` (`provider/model` to what the configuration says).

    `wall` gives the time in seconds since 1970, for prices that change on a day. `provider/*` covers the models of a provider that are listed nowhere else. The provider `local` costs nothing. One catalogue
    may serve many tasks and threads: what it keeps is only ever added to, and no more than the files hold.

    Raises:
        ConfigError: An override's name is not `provider/model`, or its figures are wrong (`ModelOverride`).
    """

    __slots__ = ("_files", "_models", "_overrides", "_priced", "_wall")

    def __init__(
        self,
        overrides: Mapping[str, ModelOverride] | None = None,
        *,
        wall: Callable[[], float] | None = None,
    ) -> None:
        self._wall = SystemClock().wall if wall is None else wall
        self._files: dict[str, _File] = {}
        self._models: dict[tuple[str, str], Model] = {}
        self._priced: dict[tuple[str, str], tuple[Model | None, float]] = {}
        self._overrides: dict[tuple[str, str], tuple[ModelOverride, str]] = {}
        for name, override in (overrides or {}).items():
            provider, slash, model = name.partition("/")
            where = f'prices."{name}"'
            if not (provider and slash and model):
                raise ConfigError(f"{where}: the name must be provider/model, such as openai/gpt-4o")
            override.applied(Model(), where)
            self._overrides[provider, model] = override, where

    @classmethod
    def from_settings(
        cls, prices: Mapping[str, Mapping[str, object]], *, wall: Callable[[], float] | None = None
    ) -> Catalog:
        """A catalogue with the tables `[prices."provider/model"]` of the configuration as overrides.

        Raises:
            ConfigError: As the constructor, or a member that `ModelOverride` does not have, or one of the wrong type.
        """
        overrides: dict[str, ModelOverride] = {}
        for name, table in prices.items():
            where = f'prices."{name}"'
            for member, value in table.items():
                # Said here, since msgspec would only say that it expected a string.
                if member.endswith("_usd_per_mtok") and not isinstance(value, str):
                    raise ConfigError(
                        f'{where}.{member} is {value!r}; write the decimal in quotes, such as "3.00"'
                    )
            try:
                overrides[name] = msgspec.convert(dict(table), ModelOverride)
            except msgspec.ValidationError as error:
                raise ConfigError(f"{where}: {error}") from None
        return cls(overrides, wall=wall)

    def model(self, provider: str, model: str) -> Model | None:
        """The model that `model` names at `provider` (see `aliases`) with its prices of today, or None if it is not known.

        Its `id` is the listed one, so it may be shorter than `model`. What the configuration says about an id
        goes before what the catalogue says about the same id.
        """
        key = (provider, model)
        found, until = self._priced.get(key, (None, float("-inf")))
        now = self._wall()
        if now < until:
            return found
        if len(self._priced) >= PRICED_KEPT:
            self._priced.clear()
        found, until = self._find(provider, model), float("inf")
        if found is not None:
            found, until = found.at(now)
        self._priced[key] = found, until
        return found

    def _find(self, provider: str, model: str) -> Model | None:
        for id_ in aliases(provider, model):
            listed = self._listed(provider, id_)
            override = self._overrides.get((provider, id_))
            if override is not None:
                base = listed or self._family(provider, id_) or Model(provider=provider, id=id_)
                return override[0].applied(base, override[1])
            if listed is not None:
                return listed
        override = self._overrides.get((provider, "*"))
        if override is not None:
            return override[0].applied(Model(provider=provider, id=model), override[1])
        if provider == "local":
            return Model(provider=provider, id=model, prices=LOCAL, price_sources=("local",))
        return None

    def cost(self, provider: str, model: str, usage: Usage) -> Nanodollars | None:
        """What `usage` costs at the model (`Model.cost`); None if the model or its price is unknown."""
        found = self.model(provider, model)
        return None if found is None else found.cost(usage)

    def models(self, provider: str) -> tuple[str, ...]:
        """The ids that are listed for `provider`, sorted; overridden ones among them."""
        ids = {id_ for owner, id_ in self._overrides if owner == provider and id_ != "*"}
        if provider in PRICED_PROVIDERS:
            ids.update(self._file(provider).models)
        return tuple(sorted(ids))

    def as_of(self, provider: str) -> str | None:
        """The day (`2026-11-24`) for which the packaged figures of `provider` hold; None if there are none."""
        return self._file(provider).as_of if provider in PRICED_PROVIDERS else None

    def _family(self, provider: str, model: str) -> Model | None:
        """The catalogue's word on an overridden id that is not listed itself."""
        return next((m for id_ in aliases(provider, model) if (m := self._listed(provider, id_))), None)

    def _listed(self, provider: str, model: str) -> Model | None:
        if (found := self._models.get((provider, model))) is not None:
            return found
        if provider not in PRICED_PROVIDERS:
            return None
        raw = self._file(provider).models.get(model)
        if raw is None:
            return None
        decoded = msgspec.json.decode(raw, type=Model)
        found = msgspec.structs.replace(decoded, provider=provider, id=model)
        self._models[provider, model] = found
        return found

    def _file(self, provider: str) -> _File:
        if (found := self._files.get(provider)) is None:
            path = files("headrace.prices").joinpath("data", f"{provider}.json")
            found = self._files[provider] = msgspec.json.decode(path.read_bytes(), type=_File)
        return found
