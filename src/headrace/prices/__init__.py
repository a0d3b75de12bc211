"""What models cost and what they can take: a dated catalogue, corrected by the configuration.

Money is an integer of nano-dollars (10**-9 USD). A token can cost less than one (`$0.075` a million tokens is 0.075
nano-dollars per thousandth of a token), so prices are integers of **nano-dollars per million tokens**, and a cost is the sum
of tokens times price over all kinds, divided **once** by a million and rounded **up**: a budget is never charged less than
the provider charges, by at most one nano-dollar, and what has a price never costs 0. The same usage costs the same
to the last digit, streamed or buffered.

An unknown price is None, never 0. Only tokens are priced: fees by the search or the call are not. Audio tokens are not counted
apart by `Usage`, so models that speak have no price here, and neither have those that draw, unless the configuration gives one.

The figures are in `data/<provider>.json`, written by `scripts/build_catalog.py` from three published price lists, with the
date, the sources and where they disagree. A file is read when its provider is first asked for, never at import.
"""

from __future__ import annotations

from headrace.prices.catalog import PRICED_PROVIDERS, Catalog, aliases
from headrace.prices.model import LOCAL, Dated, Model, ModelOverride, PriceOverride, Prices, Tier

__all__ = [
    "LOCAL",
    "PRICED_PROVIDERS",
    "Catalog",
    "Dated",
    "Model",
    "ModelOverride",
    "PriceOverride",
    "Prices",
    "Tier",
    "aliases",
]
