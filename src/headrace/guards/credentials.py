"""Where a text has a secret in it: keys of providers and clouds, tokens, private keys, passwords; pure.

Most secrets say what they are by their first letters. The prefixes are those that the services document and secret scanners look for
(GitHub's list of supported secrets; gitleaks). A value without a prefix is taken for a secret only behind a name such as `password =`,
and if it looks like one: randomness alone is as much the mark of a hash, an id or a picture.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType

from headrace.guards.personal import Span

__all__ = ["MIN_ENTROPY", "find_secrets"]

MIN_ENTROPY = 2.75
"""Bits a character of a value behind a name. Words repeat their letters; the labelled set in `benchmarks/` decided."""

_ID = "[A-Za-z0-9_-]"
_WORD = "[A-Za-z0-9]"
_PREFIXES: Mapping[str, str] = MappingProxyType(
    {
        "sk-": f"{_ID}{{20,200}}",  # OpenAI, Anthropic (sk-ant-), OpenRouter (sk-or-), DeepSeek, Langfuse (sk-lf-)
        **dict.fromkeys(
            ("gsk_", "hf_", "r8_", "fw_", "tgp_v1_"), f"{_ID}{{24,200}}"
        ),  # Groq, Hugging Face, Replicate, ...
        **dict.fromkeys(
            ("xai-", "pplx-", "csk-", "nvapi-", "hr-"), f"{_ID}{{24,200}}"
        ),  # xAI, Perplexity, Cerebras, ..., ours
        **dict.fromkeys(("lsv2_pt_", "lsv2_sk_"), f"{_ID}{{24,200}}"),  # LangSmith
        "AIza": f"{_ID}{{35}}",  # Google
        "GOCSPX-": f"{_ID}{{28}}",
        "ya29.": f"{_ID}{{20,1000}}",
        **dict.fromkeys(("AKIA", "ASIA", "ABIA", "ACCA"), "[A-Z2-7]{16}"),  # Amazon
        "ABSK": "[A-Za-z0-9+/=]{100,140}",
        **dict.fromkeys(("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), f"{_WORD}{{36,255}}"),  # GitHub
        "github_pat_": "[A-Za-z0-9_]{22,255}",
        **dict.fromkeys(
            ("glpat-", "gldt-", "glptt-", "glrt-", "glcbt-", "glsoat-"), "[A-Za-z0-9_.-]{20,300}"
        ),  # GitLab
        **dict.fromkeys(
            ("xoxa-", "xoxb-", "xoxe-", "xoxp-", "xoxr-", "xoxs-", "xapp-"), "[A-Za-z0-9-]{10,250}"
        ),  # Slack
        **dict.fromkeys(("sk_live_", "sk_test_", "rk_live_", "rk_test_"), f"{_WORD}{{16,250}}"),  # Stripe
        "whsec_": "[A-Za-z0-9+/=]{24,100}",
        "SG.": f"{_ID}{{16,32}}\\.{_ID}{{32,64}}",  # SendGrid
        "SK": "[0-9a-f]{32}",  # Twilio
        "key-": "[0-9a-f]{32}",  # Mailgun
        "npm_": f"{_WORD}{{36}}",
        "pypi-AgE": f"{_ID}{{50,1000}}",
        **dict.fromkeys(("dckr_pat_", "dckr_oat_"), f"{_ID}{{20,100}}"),  # Docker
        **dict.fromkeys(("dop_v1_", "doo_v1_", "dor_v1_"), "[a-f0-9]{64}"),  # DigitalOcean
        "dapi": "[0-9a-f]{32}",  # Databricks
        **dict.fromkeys(("shpat_", "shpca_", "shppa_", "shpss_"), "[a-fA-F0-9]{32}"),  # Shopify
        "sbp_": "[a-f0-9]{40}",  # Supabase
        **dict.fromkeys(
            ("lin_api_", "ntn_", "glsa_", "glc_", "sntrys_", "sntryu_"), "[A-Za-z0-9_=.+/-]{24,300}"
        ),
        **dict.fromkeys(("figd_", "pul-", "NRAK-", "PMAK-", "phc_", "phx_", "rubygems_"), f"{_ID}{{24,300}}"),
        **dict.fromkeys(
            ("hvs.", "hvb.", "dp.pt.", "dp.st.", "dp.ct."), "[A-Za-z0-9_.-]{24,300}"
        ),  # Vault, Doppler
        "eyJ": f"{_ID}{{10,2000}}+\\.eyJ{_ID}{{10,4000}}+\\.{_ID}{{10,1000}}",  # JSON web tokens
        "AGE-SECRET-KEY-1": "[0-9A-Z]{58}",
    }
)
_PREFIXED = tuple(
    (prefix, rf"(?<![A-Za-z0-9]){re.escape(prefix)}{rest}(?![A-Za-z0-9])")
    for prefix, rest in _PREFIXES.items()
)
_compiled = cache(re.compile)  # when a prefix is found: all of them would take milliseconds at every start
_TELEGRAM = re.compile(r"(?<!\w)\d{8,10}:AA[A-Za-z0-9_-]{33}(?!\w)")
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----(?:[A-Za-z0-9+/=\s\\:,.()]|-(?!-)){16,20000}"
    r"(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)"
)
_IN_URL = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@\"'<>]{0,64}:([^\s/@\"'<>]{3,128})@[\w.-]", re.IGNORECASE
)
_HEADER = re.compile(r"\b(?:Bearer|Basic) +([A-Za-z0-9._~+/-]{20,2000}={0,2})")
_AZURE = re.compile(r"(?:AccountKey|SharedAccessKey)=([A-Za-z0-9+/]{40,90}={0,2})")
_NAMES = ("passw", "passp", "pwd", "secret", "token", "key", "credential", "contrase", "passe")
_NAMED = re.compile(
    r"[pstacmPSTACM](?i:assw(?:or)?d|asswort|assphrase|wd|ecret|oken|pi[ _-]?key|(?:ccess|uth|rivate|ecret)[ _-]?key|redentials?|"
    r"ontraseña|ot de passe)\b"
    r"[\"'`]?[ \t]{0,3}(=>|:=|[:=]|(?i:\b(?:is|lautet|es|est)\b))?[ \t]{0,3}[\"'`]?([^\s\"'`,;<>(){}\[\]]{8,200})"
)
_NO_VALUE = re.compile(
    r"[$%/]|(?:your|my|the|some|example|sample|dummy|placeholder|change|insert|process\.|os\.|env\b|self\.|config|https?:)"
    r"|.*(?:\*{3}|x{4}|\.{3}|[Ee]xample|_here\b)|\d{4}-\d\d-\d\d|[\w-]{1,40}\.[a-z]{1,8}\Z|[\d.,:-]{1,40}\Z",
    re.IGNORECASE,
)


def find_secrets(text: str) -> Iterator[Span]:
    """Secrets in order. Of an address with a password in it, and of a value behind a name, only the secret itself."""
    found: list[Span] = []
    for prefix, pattern in _PREFIXED:
        at = text.find(prefix)
        while at >= 0:
            match = _compiled(pattern).match(text, at)
            if match is not None and _is_made_up(match[0]):
                found.append(match.span())
            at = text.find(prefix, at + 1)
    if ":AA" in text:
        found += (match.span() for match in _TELEGRAM.finditer(text))
    if "PRIVATE KEY" in text:
        found += (match.span() for match in _PRIVATE_KEY.finditer(text))
    if "://" in text:
        found += (match.span(1) for match in _IN_URL.finditer(text) if not _NO_VALUE.match(match[1]))
    if "earer " in text or "asic " in text:
        found += (match.span(1) for match in _HEADER.finditer(text) if _is_made_up(match[1]))
    if "AccessKey=" in text or "AccountKey=" in text:
        found += (match.span(1) for match in _AZURE.finditer(text))
    lowered = text.lower()
    if any(name in lowered for name in _NAMES):
        found += _named(text)
    end = 0
    for span in sorted(found):
        if span[0] >= end:
            yield span
            end = span[1]


def _named(text: str) -> Iterator[Span]:
    for match in _NAMED.finditer(text):
        value = match[2].rstrip(".?:")
        # Right behind the word, without a sign between, only what no word looks like.
        if not _NO_VALUE.match(value) and _looks_secret(value, kinds=2 if match[1] else 3):
            yield match.start(2), match.start(2) + len(value)


def _is_made_up(value: str) -> bool:
    """Not a row of one letter, as documentation shows keys, and not a name in words (`sk-learn-contrib-...`)."""
    return any(map(str.isdigit, value)) and len(set(value)) >= 9


def _looks_secret(value: str, kinds: int) -> bool:
    """Letters with digits or signs, of so many kinds; and not the same few over and over."""
    digits, upper = any(map(str.isdigit, value)), any(map(str.isupper, value))
    lower, signs = any(map(str.islower, value)), not value.isalnum()
    mixed = (digits and (upper or lower)) or digits + upper + lower + signs >= 3
    return (
        len(value) >= 8
        and mixed
        and digits + upper + lower + signs >= kinds
        and _entropy(value) >= MIN_ENTROPY
    )


def _entropy(text: str) -> float:
    """Shannon's, in bits a character."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())
