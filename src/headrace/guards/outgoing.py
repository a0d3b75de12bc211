"""What must not come back: secrets, links to where none may lead, answers without end; looked at word by word, pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from headrace.guards.credentials import find_secrets

__all__ = ["Outgoing", "Violation", "find_links"]

Reason: TypeAlias = Literal["secret", "link", "length"]

LONGEST_WORD = 4_096
"""Characters after which a word that does not end counts as one."""

CONTEXT = 120
"""Characters before a word that may say that it is a secret (`password = `)."""

_ENDED = re.compile(r".*[\s\"\x80-\U0010ffff]", re.DOTALL)
"""Up to the last character where no secret and no link goes on: both are ASCII without spaces and quotes."""

_LINK = re.compile(
    r"(?:\b(?:https?|wss?|ftp):[/\\]{2}|(?<=[(\"'=<])//)(?:[^\s/?#\"'<>)@\\]{0,256}@)?(\[[0-9A-Fa-f:.]{2,45}\]|[^\s/?#:\"'<>()\\]{1,255})",
    re.IGNORECASE,
)
_KEY_HEADER = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY")


@dataclass(frozen=True, slots=True)
class Violation:
    """`said` names what it is without a secret's own characters."""

    reason: Reason
    said: str


def find_links(text: str) -> list[str]:
    """The hosts that links in `text` lead to, in small letters, without their last dot."""
    return [match[1].lower().rstrip(".") for match in _LINK.finditer(text)]


def _within(host: str, domains: Sequence[str]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


class Outgoing:
    """One text of an answer as it grows.

    Args:
        secrets: Whether keys, tokens and passwords are violations.
        allow: Domains that links may lead to, with those below them; None for all.
        deny: Domains that they may not lead to.
        max_characters: How long it may get; None for no limit.
    """

    __slots__ = ("_allow", "_checked", "_deny", "_max", "_secrets", "_text", "length")

    def __init__(
        self,
        *,
        secrets: bool = False,
        allow: Sequence[str] | None = None,
        deny: Sequence[str] = (),
        max_characters: int | None = None,
    ) -> None:
        self._secrets = secrets
        self._allow = allow
        self._deny = deny
        self._max = max_characters
        self._text = ""  # the word that has not ended, and the context before it
        self._checked = 0  # how much of it was looked at
        self.length = 0

    def feed(self, piece: str) -> list[Violation]:
        """What is wrong in the words that `piece` ends."""
        self.length += len(piece)
        self._text += piece
        ended = _ENDED.match(piece)
        end = self._checked if ended is None else len(self._text) - len(piece) + ended.end()
        if len(self._text) - end > LONGEST_WORD:
            end = len(self._text)
        found = self._look(end)
        if self._max is not None and self.length > self._max >= self.length - len(piece):
            found.append(Violation("length", f"more than {self._max} characters"))
        return found

    @property
    def seen(self) -> int:
        """How many characters of the text were looked at: all but the word that has not ended."""
        return self.length - (len(self._text) - self._checked)

    def close(self) -> list[Violation]:
        """What is wrong in the last word: nothing more comes."""
        return self._look(len(self._text))

    def _look(self, end: int) -> list[Violation]:
        start, text = self._checked, self._text[:end]
        if start == end:
            return []
        found: list[Violation] = []
        if self._secrets and (
            any(stop > start for _, stop in find_secrets(text)) or _KEY_HEADER.search(text)
        ):
            found.append(Violation("secret", "a key, a token or a password"))
        if self._allow is not None or self._deny:
            for match in _LINK.finditer(text):
                host = match[1].lower().rstrip(".")
                allowed = self._allow is None or _within(host, self._allow)
                if match.end() > start and (not allowed or _within(host, self._deny)):
                    found.append(Violation("link", f"a link to {host[:100]}"))
        kept = max(0, end - CONTEXT)
        self._text = self._text[kept:]
        self._checked = end - kept
        return found
