"""Chooses another route for a request by the rules of the one that was asked for.

`first_match` decides and is pure. What a rule looks at is found out only where one asks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from headrace.clock import Clock
from headrace.handler import Handler, Pending, Request, Route, Rule, Stream
from headrace.language import language_of
from headrace.tokens import estimate_chat
from headrace.types import Chat, Text

__all__ = ["Choose", "Facts", "facts_of", "first_match"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What rules look at: likely input tokens, the language of the newest user text, tags, whether there are tools, and what share of the tightest
    budget is left (None where none holds)."""

    tokens: int
    language: str
    tags: Mapping[str, str]
    tools: bool
    left: float | None


def first_match(rules: Sequence[Rule], facts: Facts) -> Rule | None:
    """The first rule all of whose conditions hold."""
    return next((rule for rule in rules if _holds(rule, facts)), None)


def _holds(rule: Rule, facts: Facts) -> bool:
    if rule.longer_than is not None and facts.tokens <= rule.longer_than:
        return False
    if rule.shorter_than is not None and facts.tokens >= rule.shorter_than:
        return False
    if rule.languages and facts.language not in rule.languages:
        return False
    if rule.tag is not None and facts.tags.get(rule.tag[0]) != rule.tag[1]:
        return False
    if rule.tools is not None and facts.tools is not rule.tools:
        return False
    return rule.budget_below is None or (facts.left is not None and facts.left < rule.budget_below)


def facts_of(chat: Chat, tags: Mapping[str, str], left: float | None, rules: Sequence[Rule]) -> Facts:
    """What `rules` ask about; the rest is left at nothing."""
    asks_length = any(rule.longer_than is not None or rule.shorter_than is not None for rule in rules)
    return Facts(
        tokens=estimate_chat(chat).likely if asks_length else 0,
        language=language_of(_newest(chat)) if any(rule.languages for rule in rules) else "",
        tags=tags,
        tools=bool(chat.tools),
        left=left,
    )


def _newest(chat: Chat) -> str:
    for message in reversed(chat.messages):
        if message.role == "user":
            return "\n".join(block.text for block in message.content if isinstance(block, Text))
    return ""


@dataclass(frozen=True, slots=True)
class Choose:
    """Exchanges `request.route`; the route that was asked for stays where no rule holds.

    Args:
        route: The route of a name.
        left: What share of the request's tightest budget is left, 0 to 1; None where none holds.
    """

    clock: Clock
    route: Callable[[str], Route]
    left: Callable[[Request], Awaitable[float | None]]

    def __call__(self, inner: Handler) -> Handler:
        def handle(request: Request) -> Pending:
            return self._elsewhere(inner, request) if request.route.rules else inner(request)

        return handle

    async def _elsewhere(self, inner: Handler, request: Request) -> Stream:
        return await inner(await self._chosen(request))

    async def _chosen(self, request: Request) -> Request:
        rules, call, chat = request.route.rules, request.call, request.body.chat
        asks_budget = any(rule.budget_below is not None for rule in rules)
        left = await self.left(request) if asks_budget else None
        rule = first_match(rules, facts_of(chat, call.tags, left, rules))
        if rule is None:
            return request
        asked, route = request.route, self.route(rule.use)
        call.route = route.name
        if route.guard is None and asked.guard is not None:
            route = msgspec.structs.replace(
                route, guard=asked.guard
            )  # what must not leave must not leave by a detour
        if (asked.retention_s, asked.stores_content) != (route.retention_s, route.stores_content):
            route = msgspec.structs.replace(  # nor be kept by one
                route,
                retention_s=min(asked.retention_s, route.retention_s),
                stores_content=asked.stores_content and route.stores_content,
            )
        return msgspec.structs.replace(
            request,
            route=route,
            max_cost=_least(asked.max_cost, request.max_cost),
            max_total_tokens=_least(asked.max_total_tokens, request.max_total_tokens),
            max_tokens=route.output_limit(chat.max_tokens),
            deadline=min(request.deadline, self.clock.now() + route.deadline_s),
        )


def _least(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)
