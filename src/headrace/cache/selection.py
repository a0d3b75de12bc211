"""Which entries are meant, where some are to be thrown away."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import asdict

from headrace.cache.entry import Entry

__all__ = ["Selection"]


class Selection(Struct, frozen=True, kw_only=True):
    """All that is said must hold; nothing said means every entry.

    Attributes:
        tenant: Its name, or what `headrace cache stats` shows: `tenant:acme`, `key:dev`, `library`.
        user: Whose question it was.
        model: Who answered, as `provider/model`.
        tag: `name=value`, or `name` for any value.
        documents: A version of the route's documents; `!VERSION` for every other one.
        prefix: How the question begins, whatever its case.
        before: Kept before this time, seconds since 1970.
    """

    route: str | None = None
    user: str | None = None
    tenant: str | None = None
    model: str | None = None
    tag: str | None = None
    documents: str | None = None
    prefix: str | None = None
    before: float | None = None

    @property
    def described(self) -> str:
        """What is said, for a log that is kept for good: without the words of a question."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        if self.prefix is not None:
            said["prefix"] = "..."
        return "&".join(f"{name}={value}" for name, value in said.items()) or "all"

    def takes(self, entry: Entry) -> bool:
        """Whether `entry` is meant; pure."""
        return (
            (self.route is None or entry.route == self.route)
            and (self.user is None or entry.user == self.user)
            and (self.tenant is None or entry.tenant in (self.tenant, f"tenant:{self.tenant}"))
            and (self.model is None or entry.target == self.model)
            and (self.tag is None or any(_tagged(tag, self.tag) for tag in entry.tags))
            and (self.documents is None or _of_version(entry.documents, self.documents))
            and (self.prefix is None or (entry.text or "").casefold().startswith(self.prefix.casefold()))
            and (self.before is None or entry.created < self.before)
        )


def _tagged(tag: str, wanted: str) -> bool:
    return tag == wanted or ("=" not in wanted and tag.partition("=")[0] == wanted)


def _of_version(version: str, wanted: str) -> bool:
    return version != wanted[1:] if wanted.startswith("!") else version == wanted
