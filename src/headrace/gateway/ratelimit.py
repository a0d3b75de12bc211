"""How the rate limits stand, in the headers of the caller's dialect: what its SDK and its users know from the provider itself.

Of several limits of one kind the one with the least left is told. Sources: OpenAI's guide "Rate limits" (durations such as `6m0s`), Anthropic's
API reference "Rate limits" (RFC 3339).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from headrace.gcra import Standing

__all__ = ["limit_headers"]


def limit_headers(dialect: str, standings: Sequence[object], wall: float) -> list[str]:
    """Header lines; `standings` are those of the call, `wall` when it came, seconds since 1970."""
    lines: list[str] = []
    for unit in ("requests", "tokens"):
        of_unit = [one for one in standings if isinstance(one, Standing) and one.rate.unit == unit]
        if not of_unit:
            continue
        one = min(of_unit, key=lambda standing: standing.left)
        told: dict[str, int | str] = {"limit": one.rate.limit, "remaining": one.left}
        if dialect == "anthropic":
            full = datetime.fromtimestamp(wall + one.full_in / 1e9, UTC)
            told["reset"] = full.isoformat(timespec="seconds").replace("+00:00", "Z")
            lines += [f"anthropic-ratelimit-{unit}-{name}: {value}\r\n" for name, value in told.items()]
        else:
            told["reset"] = _duration(one.full_in)
            lines += [f"x-ratelimit-{name}-{unit}: {value}\r\n" for name, value in told.items()]
    return lines


def _duration(nanoseconds: int) -> str:
    """`120ms`, `7.5s`, `6m0s`, as OpenAI writes it."""
    milliseconds = -(-nanoseconds // 1_000_000)
    minutes, rest = divmod(milliseconds, 60_000)
    if minutes:
        return f"{minutes}m{rest / 1000:g}s"
    return f"{rest / 1000:g}s" if rest >= 1000 or not rest else f"{rest}ms"
