"""Which language a text is in, by its script and its commonest words: good enough to choose a route by, and without a model. Pure."""

from __future__ import annotations

import re

__all__ = ["LANGUAGES", "language_of"]

LOOKED_AT = 2_000
"""Characters; more would change nothing."""

_SCRIPTS = (
    ("ja", re.compile(r"[\u3040-\u30ff]")),  # before Chinese, whose characters Japanese uses too
    ("ko", re.compile(r"[\uac00-\ud7af]")),
    ("zh", re.compile(r"[\u4e00-\u9fff]")),
    ("uk", re.compile(r"[іїєґІЇЄҐ]")),
    ("ru", re.compile(r"[\u0400-\u04ff]")),
    ("ar", re.compile(r"[\u0600-\u06ff]")),
    ("he", re.compile(r"[\u0590-\u05ff]")),
    ("el", re.compile(r"[\u0370-\u03ff]")),
    ("th", re.compile(r"[\u0e00-\u0e7f]")),
    ("hi", re.compile(r"[\u0900-\u097f]")),
)

_WORDS = {
    "en": "the of and to is that it for was with this you are have not be what how do does i my can from will would",
    "de": "der die das und ist nicht ein eine zu den mit von auf für wie was ich wir sie kann wird im auch bei dem",
    "fr": "le la les et est un une des du pour dans que qui pas je nous vous comment quel quelle sur avec ce cette il",
    "es": "el los las y es un una de del que para por con no se cómo qué cuál mi su lo como más está son en",
    "it": "il lo gli e è un una di del che per con non si come cosa qual mi sono della nel alla più questo anche",
    "pt": "o os as e é um uma de do da que para por com não se como qual meu minha são em mais você isso está",
    "nl": "de het een en is niet van te dat voor met op zijn wat hoe ik wij kan wordt ook aan bij deze er hij",
    "sv": "och är inte en ett det som på för med av att hur vad jag vi kan till om den har från hej mitt din",
    "pl": "i nie jest w na z do się że to jak co czy dla mnie mój przez są ale tak ma jakie mi od po",
    "tr": "ve bir bu için ile de da ne nasıl mi mı değil çok daha olarak var ben sen o gibi kadar benim neden hangi",  # noqa: RUF001
}
_COMMON = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")

LANGUAGES = tuple(sorted({*_COMMON, *(name for name, _ in _SCRIPTS)}))
"""ISO 639-1 codes of what is told apart."""


def language_of(text: str) -> str:
    """The ISO 639-1 code of `text`'s language, one of `LANGUAGES`; empty where it cannot be told.

    A script counts when a fifth of the letters are of it. Of languages in Latin letters the one with the most common words wins, and needs one
    more than the next.
    """
    text = text[:LOOKED_AT]
    letters = len(re.findall(r"[^\W\d_]", text))
    if not letters:
        return ""
    for name, script in _SCRIPTS:
        found = len(script.findall(text))
        if found * 5 >= letters or (name in ("ja", "uk") and found * 20 >= letters):
            return name
    words = [word.lower() for word in _WORD.findall(text)]
    counts = sorted(
        ((sum(word in common for word in words), name) for name, common in _COMMON.items()), reverse=True
    )
    (most, name), (next_, _) = counts[0], counts[1]
    return name if most > next_ else ""
