"""One table of the file: typed members asked for by name, and a refusal of what nobody asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from types import MappingProxyType

from headrace.config.problem import SECRET_KEYS, Report, closest, guess, kind_of, quoted
from headrace.config.secret import Secret
from headrace.lines import KeyPath

MAX_DURATION_S = 86_400.0
"""No timeout is longer than a day: longer ones are typing mistakes."""


_LATER: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "": frozenset({"vectors", "context", "prompts", "observe"}),
        "routes": frozenset({"output", "retry"}),
        "store": frozenset({"url"}),
    }
)
"""Keys of systems that are designed but not built: refused, since a budget that is silently ignored is none."""


class Table:
    """One table of the file. What is asked for by name is known; what remains at `close` is refused."""

    def __init__(
        self, found: Report, path: KeyPath, members: Mapping[str, object], later: str | None
    ) -> None:
        self.found = found
        self.path = path
        self.members = members
        self.later = _LATER.get(later, frozenset()) if later is not None else frozenset()
        self.known: list[str] = []

    def take(self, name: str) -> object:
        """What is written there, not judged; None if absent."""
        self.known.append(name)
        return self.members.get(name)

    def wrong(self, name: str, message: str, fix: str = "") -> None:
        """Note that the value of `name` is wrong."""
        self.found.add((*self.path, name), message, fix, value=self.members.get(name))

    def text(self, name: str) -> str | None:
        """A string that is not empty; None if absent or wrong."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            self.wrong(name, f"must be a string, not {kind_of(value)}", "Put it in quotes.")
            return None
        text = self.found.substitute((*self.path, name), value)
        if text is not None and not text and name not in SECRET_KEYS:
            self.wrong(name, "is empty", "Say something or leave the line out.")
            return None
        return text

    def name(self, name: str) -> str | None:
        """A string that is fit to stand in a log line and a table."""
        text = self.text(name)
        if text is not None and (len(text) > 128 or not text.isprintable()):
            self.wrong(name, "must be 1 to 128 printable characters")
            return None
        return text

    def secret(self, name: str, *, required: bool = False) -> Secret | None:
        """A secret that can stand in a header; None if absent, empty or wrong. An empty one is a mistake if `required`."""
        text = self.text(name)
        if not text:
            if text == "" and required:
                self.wrong(name, "is empty", "Write ${NAME} and set the variable.")
            return None
        if not sendable(text):
            self.wrong(
                name, "has spaces, control characters or non-ASCII letters in it", "Copy the key again."
            )
            return None
        return Secret(text)

    def choice(self, name: str, known: Sequence[str]) -> str | None:
        """One of `known`; None if absent or wrong."""
        text = self.text(name)
        if text is not None and text not in known:
            self.wrong(name, f"must be one of {', '.join(known)}", guess(text, known))
            return None
        return text

    def integer(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, str) and "${" in value:
            text = self.found.substitute((*self.path, name), value)
            if text is None:
                return default
            value = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else value
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong(name, "must be a whole number", f"Write {name} = {default}, without quotes.")
            return default
        if not low <= value <= high:
            self.wrong(name, f"must be from {low} to {high}")
            return default
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self.take(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.wrong(name, "must be a number", f"Write {name} = {default:g}, without quotes.")
            return default
        if not low <= value <= high:
            self.wrong(name, f"must be from {low:g} to {high:g}")
            return default
        return float(value)

    def duration(self, name: str, default: float, *, zero: bool = False) -> float:
        """Seconds from a text such as `60s`."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, str):
            fix = (
                f'Write {name} = "{value}s".'
                if kind_of(value) == "a number"
                else 'Write "60s", "500ms" or "2m".'
            )
            self.wrong(name, "must say its unit", fix)
            return default
        text = self.found.substitute((*self.path, name), value)
        if text is None:
            return default
        try:
            seconds = parse_duration(text)
        except ValueError:
            self.wrong(name, "not a duration", 'Write "60s", "500ms" or "2m".')
            return default
        if seconds > MAX_DURATION_S or (seconds <= 0 and not zero):
            self.wrong(name, f"must be {'at least 0' if zero else 'above 0'} and at most 24h")
            return default
        return seconds

    def moment(self, name: str, now: float | None = None) -> float | None:
        """A date or a date and time as seconds since 1970; where `now` is given also a duration from then on, and nothing past."""
        value = self.take(name)
        if value is None:
            return None
        text = self.found.substitute((*self.path, name), value) if isinstance(value, str) else ""
        if text is None:
            return None
        try:
            wall = parse_moment(text, now) if text else _wall(value)
        except ValueError:
            fix = 'Write "2030-01-31" or "2030-01-31T12:00:00Z"' + ("." if now is None else ', or "30d".')
            self.wrong(name, "not a date", fix)
            return None
        if now is not None and wall <= now:
            self.wrong(name, "is past", "Name a time to come.")
        return wall

    def texts(self, name: str) -> list[tuple[int, str]]:
        """An array of strings, each with its position."""
        value = self.take(name)
        if value is None:
            return []
        if not isinstance(value, list):
            self.wrong(name, f"must be an array of strings, not {kind_of(value)}", f'Write {name} = ["..."].')
            return []
        result = []
        for index, item in enumerate(value):
            path = (*self.path, name, index)
            if not isinstance(item, str):
                self.found.add(path, f"must be a string, not {kind_of(item)}")
            elif text := self.found.substitute(path, item):
                result.append((index, text))
        return result

    def money(self, name: str) -> str | None:
        """US dollars as a decimal in quotes: at most 6 digits before the point, for nano-dollars 9 after it."""
        value = self.members.get(name)
        if isinstance(value, int | float):
            self.take(name)
            self.wrong(name, "money is not written as a number", f'Put it in quotes: "{value}".')
            return None
        text = self.text(name)
        if text is not None and not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,9})?", text):
            self.wrong(name, "must be US dollars, with at most 9 decimals", 'Write "3.00".')
            return None
        return text

    def boolean(self, name: str) -> bool | None:
        """`true` or `false`; None if absent or wrong."""
        value = self.take(name)
        if value is None or isinstance(value, bool):
            return value
        self.wrong(name, "must be true or false")
        return None

    def table(self, name: str, *, later: str | None = None) -> Table:
        """A table, empty if absent or wrong."""
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            # Whatever stands there may be a key: it is not shown.
            self.found.add((*self.path, name), f"must be a table, not {kind_of(value)}")
            value = None
        return Table(self.found, (*self.path, name), value or {}, later)

    def tables(self, name: str) -> Iterator[tuple[str, Table]]:
        """The tables below table `name`, by their names."""
        outer = self.table(name)
        for inner in outer.members:
            yield inner, outer.table(inner, later=name)

    def close(self) -> None:
        """Refuse what nobody asked for. Values of unknown keys are not shown: a mistyped `api_key` holds a key."""
        for name in self.members:
            if name in self.later:
                self.found.add(
                    (*self.path, name), "is not supported yet", "Leave it out: it would have no effect."
                )
            elif name not in self.known:
                self.found.add((*self.path, name), "unknown key", closest(name, self.known))


def sendable(text: str) -> bool:
    return re.fullmatch(r"[!-~]+", text) is not None


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds in `500ms`, `60s`, `1.5m`, `2h`, `1m30s`. Raises `ValueError` for anything else, also without a unit."""
    if not re.fullmatch(r"([0-9]{1,9}(\.[0-9]{1,9})?(ms|s|m|h))+", text, re.ASCII):
        raise ValueError(f"not a duration: {quoted(text)}")
    parts = re.findall(r"([0-9.]+)(ms|s|m|h)", text)
    return math.fsum(float(number) * _UNITS[unit] for number, unit in parts)


def span_of(text: str) -> float:
    """Seconds in `30d` or in a duration such as `12h`. Raises `ValueError` for anything else."""
    days = re.fullmatch(r"([0-9]{1,5})d", text, re.ASCII)
    return int(days[1]) * 86_400.0 if days else parse_duration(text)


def parse_moment(text: str, now: float | None = None) -> float:
    """Seconds since 1970 of `2030-01-31` (its beginning) or `2030-01-31T12:00:00Z`; UTC, where no other zone is said. With `now`, also of
    what `span_of` reads, from then on. Raises `ValueError` for anything else."""
    if now is not None:
        with suppress(ValueError):
            return now + span_of(text)
    return _wall(datetime.fromisoformat(text))


def _wall(value: object) -> float:
    if not isinstance(value, date):
        raise ValueError("not a date")
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return (value if value.tzinfo is not None else value.replace(tzinfo=UTC)).timestamp()


def nano(dollars: str | None) -> int | None:
    """Nano-dollars in a decimal that `Table.money` has judged."""
    if dollars is None:
        return None
    whole, _, part = dollars.partition(".")
    return int(whole) * 1_000_000_000 + int(part.ljust(9, "0"))
