"""What a target takes, in tokens; pure."""

from __future__ import annotations

from msgspec import Struct

from headrace.context.tally import price
from headrace.handler import ContextPolicy
from headrace.tokens import Estimate

__all__ = ["Profile", "input_limit"]


class Profile(Struct, frozen=True, kw_only=True):
    """What a target takes, in tokens.

    `limit` is the most input, None without one; `fixed` what every request carries beside the log (tools, a system prompt outside the
    messages, framing); `factor` turns likely counts into planned ones (`tokens.Correction.factor`; 1 for an exact counter), None to
    plan with upper bounds. `read` and `write` are what a token costs that is read from the prompt cache, or written to it, in prices of an input token.
    `cache_age` is how long ago, in seconds, the request was sent that this one goes on from, None where nobody knows; after `cache_ttl` the provider
    has forgotten it (Anthropic documents five minutes unless an hour is asked for, OpenAI five to ten).
    """

    limit: int | None = None
    fixed: int = 0
    factor: float | None = None
    read: float = 0.1
    write: float = 1.25
    cache_age: float | None = None
    cache_ttl: float = 300.0

    @property
    def cold(self) -> bool:
        """Whether the prompt cache is known to have nothing of this conversation."""
        return self.cache_age is not None and self.cache_age > self.cache_ttl

    def cost(self, estimate: Estimate) -> int:
        """The count to plan with, never above the estimate's bound."""
        return price(estimate, self.factor)


def input_limit(
    policy: ContextPolicy, *, window: int | None, max_input: int | None, output: int | None
) -> int | None:
    """The most input tokens that a request may have; None where neither the policy nor the model says.

    Args:
        window: The model's window for input and output together.
        max_input: The model's limit of input alone.
        output: What the request reserves for its answer; None for the policy's own reserve, at most a quarter of the window.
    """
    limits = [policy.budget] if policy.budget is not None else []
    if window is not None:
        reserve = min(policy.output, window // 4) if output is None else output
        limits.append(int(window * (1 - policy.margin)) - reserve)
    if max_input is not None:
        limits.append(int(max_input * (1 - policy.margin)))
    return min(limits, default=None)
