"""What a program may use in one place of its own: ``with llm.budget(usd="0.50") as spent: ...``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar, Token
from decimal import Decimal
from types import TracebackType
from typing import Literal, Self

from headrace.budget.account import Pot
from headrace.call import Nanodollars, format_usd

__all__ = ["BudgetScope", "open_scopes"]

_SCOPES: ContextVar[tuple[BudgetScope, ...]] = ContextVar("headrace_budgets", default=())


class BudgetScope:
    """Holds for every request of its client that is made inside the ``with``, in tasks and threads begun there too; scopes nest, and all hold.

    Each attempt reserves its worst case and settles at its bill, so that concurrent requests do not pass the limit
    together. It lives in this process alone; a budget that lasts stands in the configuration.

    Args:
        owner: The client.
        usd: US dollars, exact: `"0.50"`; a float is read as it prints.
        tokens: Input and output together.
        on_limit: `refuse` raises `BudgetExceeded`; `downgrade` goes on to the next target of the cascade that fits.
        tags: Put on every request inside, for the ledger; the request's own go before.

    Raises:
        ValueError: Neither limit, a negative one, or dollars with more than nine decimals.
    """

    __slots__ = ("_token", "owner", "pots", "tags")

    def __init__(
        self,
        owner: object,
        *,
        usd: str | float | Decimal | None = None,
        tokens: int | None = None,
        on_limit: Literal["refuse", "downgrade"] = "refuse",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        if usd is None and tokens is None:
            raise ValueError("a budget needs usd= or tokens=")
        if on_limit not in ("refuse", "downgrade"):
            raise ValueError(f"on_limit must be 'refuse' or 'downgrade', not {on_limit!r}")
        if tokens is not None and tokens < 0:
            raise ValueError(f"tokens must be 0 or more, not {tokens!r}")
        self.owner = owner
        self.tags = dict(tags or {})
        downgrade = on_limit == "downgrade"
        self.pots: dict[Literal["usd", "tokens"], Pot] = {}
        if usd is not None:
            self.pots["usd"] = Pot("this budget", _nano(usd), downgrade=downgrade)
        if tokens is not None:
            self.pots["tokens"] = Pot("this budget", tokens, unit="tokens", downgrade=downgrade)
        self._token: Token[tuple[BudgetScope, ...]] | None = None

    @property
    def spent(self) -> Nanodollars:
        """Nano-dollars of the attempts that have ended, with the bounds of those that nobody billed; 0 without a limit in dollars."""
        return self.pots["usd"].spent if "usd" in self.pots else 0

    @property
    def spent_usd(self) -> str:
        """`spent` as exact decimal US dollars."""
        return format_usd(self.spent)

    @property
    def left(self) -> Nanodollars:
        """Nano-dollars that are neither spent nor reserved, 0 or more; 0 without a limit in dollars."""
        return self.pots["usd"].left if "usd" in self.pots else 0

    @property
    def tokens_spent(self) -> int:
        """Tokens of the attempts that have ended; 0 without a limit in tokens."""
        return self.pots["tokens"].spent if "tokens" in self.pots else 0

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("this budget is in use already")
        self._token = _SCOPES.set((*_SCOPES.get(), self))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._token is not None
        _SCOPES.reset(self._token)
        self._token = None


def open_scopes(owner: object) -> tuple[BudgetScope, ...]:
    """Those of `owner` that hold here."""
    return tuple(scope for scope in _SCOPES.get() if scope.owner is owner)


def _nano(usd: str | float | Decimal) -> Nanodollars:
    text = str(usd) if isinstance(usd, str | int | Decimal) else format(Decimal(repr(usd)), "f")
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text, re.ASCII):
        raise ValueError(f'usd must be US dollars with at most nine decimals, such as "0.50", not {usd!r}')
    return int(Decimal(text) * 1_000_000_000)
