"""Budgets: money and tokens that are never overspent, under any concurrency, by several workers, through a crash.

`windows` says when a budget is renewed, `worst` what an attempt can cost at most, `leases` what the store decides (all pure); `purse`
is one worker's side, `account` one request's, `scope` a program's own, and `layer` puts them into the stack.
"""

from __future__ import annotations

from headrace.budget.account import Account, Caps, Pot, bound
from headrace.budget.layer import OpenAccount, Reserve
from headrace.budget.leases import Balance, Book, Cap, Charge, Demand, Hold, Leased
from headrace.budget.purse import Purse
from headrace.budget.scope import BudgetScope, open_scopes

__all__ = [
    "Account",
    "Balance",
    "Book",
    "BudgetScope",
    "Cap",
    "Caps",
    "Charge",
    "Demand",
    "Hold",
    "Leased",
    "OpenAccount",
    "Pot",
    "Purse",
    "Reserve",
    "bound",
    "open_scopes",
]
