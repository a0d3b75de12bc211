"""What a key may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.access import KeyTerms, allows, require
from headrace.errors import Forbidden

NAMES = st.sampled_from(["smart", "fast", "openai/a", "openai/b", "open/a", "openai", "local/default", ""])
ALLOWED = st.frozensets(st.sampled_from(["smart", "openai/a", "openai/*", "local/*"]))


@given(ALLOWED, st.lists(NAMES, min_size=1, max_size=4))
def test_a_cascade_is_allowed_where_each_of_its_parts_is(allowed: frozenset[str], names: list[str]) -> None:
    """And a part is allowed by its own name, or by its provider's; with nothing said, everything is."""

    def may(name: str) -> bool:
        provider = name.split("/")[0]
        return name in allowed or (name != provider and f"{provider}/*" in allowed)

    assert allows(allowed, ",".join(names)) == (not allowed or all(may(name) for name in names))


def test_a_wildcard_is_a_providers() -> None:
    """Not a route's that begins like it, nor another provider's."""
    terms = KeyTerms(tenant="t", routes=("smart",), models=("openai/*",))
    for name in ("smart", "openai/gpt-5", "openai/ft:gpt-5:x/y", "smart,openai/m"):
        require(terms.allowed, name)
    for name in ("openai", "openai-eu/m", "smarter", "anthropic/m", "smart,anthropic/m", "*", "openai/m,"):
        with pytest.raises(Forbidden, match=r"may use openai/\*, smart, not"):
            require(terms.allowed, name)
