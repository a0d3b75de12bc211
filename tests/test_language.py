# ruff: noqa: RUF001
"""Languages told apart by script and common words: right where it says something, silent where it cannot tell."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.language import LANGUAGES, language_of

TEXTS = {
    "en": [
        "Why is the sky blue, and what does that have to do with the sun?",
        "Please summarise this report for the board in one paragraph.",
        "How do I reset my password?",
    ],
    "de": [
        "Warum ist der Himmel blau und was hat das mit der Sonne zu tun?",
        "Bitte fasse diesen Bericht für den Vorstand in einem Absatz zusammen.",
        "Wie kann ich mein Passwort zurücksetzen?",
    ],
    "fr": [
        "Pourquoi le ciel est-il bleu et quel est le rapport avec le soleil ?",
        "Résume ce rapport pour la direction en un paragraphe.",
        "Comment est-ce que je peux changer mon mot de passe ?",
    ],
    "es": ["¿Por qué el cielo es azul y qué tiene que ver con el sol?", "Resume este informe para la dirección en un párrafo."],
    "it": ["Perché il cielo è blu e che cosa c'entra con il sole?", "Come posso cambiare la mia password? Non la trovo più."],
    "pt": ["Por que o céu é azul e o que isso tem a ver com o sol?", "Como você pode resumir os dados em um parágrafo?"],
    "nl": ["Waarom is de lucht blauw en wat heeft dat met de zon te maken?", "Hoe kan ik mijn wachtwoord wijzigen op deze site?"],
    "sv": ["Varför är himlen blå och vad har det att göra med solen?", "Hur kan jag byta mitt lösenord på den här sidan?"],
    "pl": ["Dlaczego niebo jest niebieskie i co to ma wspólnego ze słońcem?", "Jak mogę zmienić moje hasło na tej stronie?"],
    "tr": ["Gökyüzü neden mavi ve bunun güneşle ne ilgisi var?", "Bu rapor için bir özet yazar mısın, çok uzun değil?"],
    "ja": ["空はなぜ青いのですか。", "この報告書を要約してください。"],
    "zh": ["天空为什么是蓝色的?", "请总结这份报告。"],
    "ko": ["하늘은 왜 파란색인가요?"],
    "ru": ["Почему небо голубое?", "Кратко изложи этот отчёт."],
    "uk": ["Чому небо блакитне і що це має спільного із сонцем?"],
    "ar": ["لماذا السماء زرقاء؟"],
    "he": ["למה השמיים כחולים?"],
    "el": ["Γιατί ο ουρανός είναι μπλε;"],
    "hi": ["आसमान नीला क्यों है?"],
    "th": ["ทำไมท้องฟ้าจึงเป็นสีฟ้า"],
}  # fmt: skip


@pytest.mark.parametrize("language", TEXTS)
def test_a_sentence_is_enough(language: str) -> None:
    """A question of ordinary length is put where it belongs."""
    assert [language_of(text) for text in TEXTS[language]] == [language] * len(TEXTS[language])


def test_every_language_has_been_tried() -> None:
    """What the settings may name is what the sentences above cover."""
    assert set(LANGUAGES) == set(TEXTS)


@pytest.mark.parametrize("text", ["", "12 + 30 = ?", "!!!", "foo bar baz", "OK"])
def test_what_cannot_be_told_is_not_guessed(text: str) -> None:
    """Numbers, names and single words have no language."""
    assert language_of(text) == ""


@given(st.text(max_size=300))
def test_any_text_is_read(text: str) -> None:
    """It never raises, and says nothing that settings could not name."""
    assert language_of(text) in {"", *LANGUAGES}
