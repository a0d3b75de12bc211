"""The frames that English puts around a question, in one form: "what is the best way to X", "in order to X, what should I do" and "how can I X" are
"how to X". Written from general knowledge of the language. Pure.
"""

from __future__ import annotations

import re

__all__ = ["plain"]

_WHO = r"(?:i|you|we|one|someone|somebody|a person|people|me)"
_HELLO = re.compile(
    r"^(?:(?:hi|hello|hey|good (?:morning|afternoon|evening)|greetings)(?: there| all| everyone| team)? )+(?=\w)"
)
_ASK = re.compile(
    r"^(?:(?:so|ok|okay|well|please|also) )*(?:"
    r"(?:can|could|would|will) (?:you|someone|anyone|somebody|anybody) (?:please |kindly |possibly )*(?:tell|explain to|show|teach|advise|inform) (?:me|us)"
    r"|(?:do you|does anyone|does anybody|does someone) (?:happen to )?know"
    r"|(?:i|we) (?:was|am|were|are) (?:just )?(?:wondering|curious)|i wonder|(?:i|we) (?:would like|want|wanted|need|d like) to know"
    r"|(?:please )?(?:tell|show|teach) (?:me|us)|would you mind (?:telling|showing) (?:me|us)|any idea|(?:does )?any(?:one|body) know"
    r") (?:about )?(?=(?:what|how|why|when|where|who|which|whose)\b)"
)
_REQUEST = re.compile(
    r"^(?:(?:can|could|would|will) you|(?:i|we) (?:want|need|would like|d like) you to|i (?:was wondering|wonder) if you (?:can|could)) (?=\w)"
)
_PLEASE = re.compile(r"(?:(?<=\s)|^)(?:please|pls|kindly|thanks|thank you)(?:\s|$)")
_THINK = re.compile(r"^(?:do you think|in your opinion|would you say|is it true that) (?=\w)")
_BEST = r"(?:(?:the|a|an|any|some|your|my) )?(?:(?:very )?(?:best|good|better|right|proper|correct|easiest|easy|simplest|simple|recommended|ideal|usual) )?"
_MEANS = r"(?:ways?|methods?|process|procedure|steps|approach|trick|tricks)"
_HOWTO = (
    re.compile(
        rf"^(?:if|when) {_WHO} (?:want|wants|need|needs|wish|would like|am trying|are trying|have) to (?P<what>.+?) "
        rf"(?:then )?(?:what|how) (?:should|can|could|must|do|would|might) {_WHO} (?:do|have to do|need to do|go about (?:it|this|that)|proceed)$"
    ),
    re.compile(
        rf"^in order to (?P<what>.+?) (?:what|how) (?:should|can|could|must|do|would|might) {_WHO} (?:do|have to do|need to do|proceed)$"
    ),
    re.compile(
        rf"^what (?:should|can|could|must|do) {_WHO} (?:do|have to do|need to do) (?:in order to|to|if {_WHO} (?:want|need) to) (?P<what>.+)$"
    ),
    re.compile(
        rf"^(?:what is|what are|what would be|whats|is there) {_BEST}{_MEANS} (?:for {_WHO} )?(?:to|of|for|in) (?P<what>.+)$"
    ),
    re.compile(rf"^{_BEST}{_MEANS} to (?P<what>.+)$"),
)
"""Whoever is named in these is anyone: `you` and `I` are the same there."""
_HOW_DO = re.compile(rf"^how (?:do|can|could|should|would|might|does|must) {_WHO} (?:go about |best )?(?=\w)")
_MAY = re.compile(rf"^(?:is it possible (?:for {_WHO} )?to|am i (?:able|allowed) to) (?=\w)")
_ASIDE = re.compile(r" (?:in fact|as a matter of fact|by any chance|at all)\b")
_TAG = re.compile(
    r"^((?:i|you|he|she|it|we|they|that|this|there|yes|yeah|so|well)\b.+\w) (?:is|are|am|was|were|do|does|did|have|has|can|could|will|would|should) "
    r"(?:not )?(?:i|you|he|she|it|we|they|there)$"
)
_ACCORDING = re.compile(r"^(who|what|which) do(?:es)? (.+?) think (is|are) (.+)$")
_ANYONE = {
    "you": "i",
    "your": "my",
    "yours": "mine",
    "yourself": "myself",
    "we": "i",
    "our": "my",
    "us": "me",
    "one": "i",
}
_MINE = re.compile(r"\b(?:i|my|me|mine|myself)\b")


def plain(text: str) -> tuple[str, str]:
    """`text` (words in lower case, one space between them) in its plain form, and the form that says who is spoken of: the first, but with
    the person of a frame like "how can you" kept."""
    text = _PLEASE.sub("", text).rstrip() or text
    text = _ASIDE.sub("", _THINK.sub("", _ASK.sub("", _HELLO.sub("", text))))
    text = _TAG.sub(r"\1", text)
    text = _MAY.sub("can i ", _REQUEST.sub("", text))
    for pattern in _HOWTO:
        found = pattern.match(text)
        if found is not None:
            what = found["what"]
            if not _MINE.search(what):
                what = " ".join(_ANYONE.get(word, word) for word in what.split())
            return f"how to {what}", f"how to {what}"
    found = _ACCORDING.match(text)
    if found is not None:
        text = f"{found[1]} {found[3]} {found[4]} according to {found[2]}"
    return _HOW_DO.sub("how to ", text), text
