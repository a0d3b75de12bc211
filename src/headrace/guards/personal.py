"""Where a text names a person or a machine: e-mail addresses, phone numbers, payment cards, bank accounts, IP addresses; pure.

Each finder gives spans of the text, in order. What has a checksum or a registry is held to it, so that an order number is no card
and a version is no address; a number without either is a phone number only where its form or the words before it say so. Every
pattern here is bounded: no text makes one run long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TypeAlias

__all__ = ["Span", "find_cards", "find_emails", "find_ibans", "find_ips", "find_phones", "is_iban", "is_luhn"]

Span: TypeAlias = tuple[int, int]
"""Start and end, as of a slice."""


# --- e-mail -----------------------------------------------------------------------------------------------------------

_AT_DOMAIN = re.compile(
    r"@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(xn--[a-z0-9-]{2,59}|[^\W\d_]{2,63})(?![^\W_])"
)
_LOCAL = re.compile(r"(?:[\w.-]{1,40}\+[\w.=+-]{1,40}|[\w.+%&'-]{1,64})\Z")
_NOT_DOMAINS = frozenset(
    ["avif", "bmp", "css", "gif", "html", "ico", "jpeg", "jpg", "js", "json", "pdf", "png", "svg", "webp"]
)
"""Endings of files that are no top-level domains: `logo@2x.png`."""


def find_emails(text: str) -> Iterator[Span]:
    """Addresses with a domain that has a dot, in any script. `git@` of a remote is nobody's."""
    if "@" not in text:
        return
    for match in _AT_DOMAIN.finditer(text):
        at = match.start()
        local = _LOCAL.search(text, max(0, at - 64), at)
        if local is None or match[1].lower() in _NOT_DOMAINS:
            continue
        name = local[0].lstrip(".'%&-")
        if name and name != "git":
            yield at - len(name), match.end()


# --- payment cards ----------------------------------------------------------------------------------------------------

_CARD = re.compile(
    r"(?<![^\W_])(?<!\d[.,])(?:[2-6]\d{11,18}+"
    r"|[2-6]\d{3}([ \xa0.-])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?"
    r"|3\d{3}([ \xa0.-])\d{6}\2\d{4,5})(?!\d)"
)
_BRANDS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|09|[689]\d)\d{11}"  # Diners Club
    r"|(?:6011|64[4-9]\d|65\d\d)\d{12}(?:\d{3})?"  # Discover
    r"|35(?:2[89]|[3-8]\d)\d{12}"  # JCB
    r"|62\d{14,17}"  # UnionPay
    r"|(?:50|5[6-8]|6\d)\d{10,17}"  # Maestro
)
"""Issuer prefixes and lengths of ISO/IEC 7812, as the card networks publish them."""


def find_cards(text: str) -> Iterator[Span]:
    """Numbers of a network's prefix and length whose Luhn digit is right (ISO/IEC 7812-1), whole or in groups."""
    for match in _CARD.finditer(text):
        start, end = match.span()
        while True:
            digits = _digits(text[start:end])
            if _BRANDS.fullmatch(digits) and is_luhn(digits):
                yield start, end
            elif len(digits) == 19 and match[1]:
                end -= 4  # four groups, and three digits that were the security code
                continue
            break


def is_luhn(digits: str) -> bool:
    """Whether the last of `digits` is the check digit of the others."""
    total = sum(map(int, digits[-1::-2]))
    return (total + sum(sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])) % 10 == 0


def _digits(text: str) -> str:
    return "".join(filter(str.isdigit, text))


# --- bank accounts ----------------------------------------------------------------------------------------------------

_IBAN_LENGTHS = {
    country: int(length)
    for length, countries in (
        ("15", "NO"), ("16", "BE"), ("18", "DK FI FK FO GL NL SD"), ("19", "MK SI"),
        ("20", "AT BA EE KZ LT LU MN XK"), ("21", "CH HR LI LV"), ("22", "BG BH CR DE GB GE IE ME RS VA"),
        ("23", "AE GI IL IQ OM SO TL"), ("24", "AD CZ ES MD PK RO SA SE SK TN VG"), ("25", "LY PT ST"),
        ("26", "IS TR"), ("27", "BI DJ FR GR IT MC MR SM"), ("28", "AL AZ BY CY DO GT HN HU LB NI PL SV"),
        ("29", "BR EG PS QA UA"), ("30", "JO KW MU YE"), ("31", "MT SC"), ("33", "LC RU"),
    )
    for country in countries.split()
}  # fmt: skip
"""The IBAN registry of SWIFT (ISO 13616)."""

_IBAN = re.compile(r"(?<![^\W_])[A-Za-z]{2}\d\d")
_ACCOUNT = re.compile(r"(?:[ \xa0-]?[A-Za-z0-9]){11,29}")
_SEPARATORS = re.compile(r"[ \xa0-]")


def find_ibans(text: str) -> Iterator[Span]:
    """Account numbers of a registered country and length whose remainder is right, whole or in groups."""
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper())
        rest = None if length is None else _ACCOUNT.match(text, match.end())
        if rest is None:
            continue
        end, left = match.end(), (length or 0) - 4
        while left and end < rest.end():
            left -= text[end] not in " \xa0-"
            end += 1
        if not left and not text[end : end + 1].isalnum() and is_iban(text[match.start() : end]):
            yield match.start(), end


def is_iban(text: str) -> bool:
    """Whether the check digits are right: the remainder by 97 is 1 (ISO 7064). `text` is in ASCII, its groups may be apart."""
    compact = _SEPARATORS.sub("", text).upper()
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


# --- IP addresses -----------------------------------------------------------------------------------------------------

_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\w)")
_NUMBERED = re.compile(
    r"(?:\b(?:v|ver|versions?|releases?|section|chapter|build|rev|firmware|driver|kernel|patch|update|python|java|jdk|node|php|ruby|"
    r"openssl|openssh|nginx|apache|mysql|postgres(?:ql)?|docker|android|ios|windows|chrome|firefox|safari|edge)\.?|§|[A-Za-z]/|[=~><]=)[ \xa0]?\Z",
    re.IGNORECASE,
)
_IPV6 = re.compile(
    r"(?<![\w:.])(?=[0-9A-Fa-f]{0,4}:[0-9A-Fa-f]{0,4}:)[0-9A-Fa-f:]{3,39}(?:(?:\.\d{1,3}){3})?(?![\w:])"
)


def find_ips(text: str) -> Iterator[Span]:
    """IPv4 and IPv6 addresses. Those of this machine (`127.0.0.1`, `::1`, `0.0.0.0`) say nothing of anyone; versions and sections
    with four numbers are none."""
    found: list[Span] = []
    for match in _IPV4.finditer(text):
        try:
            address = IPv4Address(match[0])
        except AddressValueError:
            continue
        before = text[max(0, match.start() - 14) : match.start()]
        if not (address.is_loopback or address.is_unspecified or _NUMBERED.search(before)):
            found.append(match.span())
    if "::" in text or text.count(":") >= 7:
        for match in _IPV6.finditer(text):
            written = match[0].rstrip(":") if not match[0].endswith("::") else match[0]
            try:
                address6 = IPv6Address(written)
            except AddressValueError:
                continue
            # Two names of C++ or Rust may be hexadecimal; a real address has a digit.
            if any(map(str.isdigit, written)) and not (address6.is_loopback or address6.is_unspecified):
                found.append((match.start(), match.start() + len(written)))
    yield from sorted(found)


# --- phone numbers ----------------------------------------------------------------------------------------------------

_NUMBER = re.compile(
    r"(?<![\w+#$€£%])(?<!\w[/@&-])(?<!\d[.,:=])\(?\d(?:[ \xa0./()\u2011\u2013-]{0,2}\d){6,16}+(?![^\W_]|[.,:/-]\d)"
)
_INTERNATIONAL = re.compile(r"(?<![\w+])\+[ \xa0]?\(?\d(?:[ \xa0./()\u2011\u2013-]{0,2}\d){6,24}")
_LAST_GROUP = re.compile(r"\D+\d+\Z")
_CALLING_CODE = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]"
    r"|2[1-69]\d|3[578]\d|42[013]|5[09]\d|6[789]\d|8[05789]\d|9[679]\d"
)
"""Country codes that are assigned (ITU-T E.164, list of 2016)."""

_NORTH_AMERICAN = re.compile(
    r"(?:1[-. \xa0])?(?:\([2-9](?!11)\d\d\)[ \xa0-]?|[2-9](?!11)\d\d[-. \xa0])[2-9](?!11)\d\d[-. \xa0]\d{4}"
)
_TRUNK = re.compile(r"\(?0[1-9]\d{0,4}\)?(?:[ \xa0/-]{1,2}\d{2,8}){1,5}|\(?0[1-9](?:\.\d\d){4}")
_DATE = re.compile(r"\d{1,2}[./-]\d{1,2}[./-](?:19|20)\d\d|(?:19|20)\d\d[./-]\d{1,2}[./-]\d{1,2}")
_SAID = re.compile(
    r"(?:\b|_)(?:(?:tele)?phone|tel|telef(?:on|oon|one|ono)|tel[eé]fono|t[eé]l[eé]phone|mobile?|m[oó]vil|cell(?:phone|ulare?)?|"
    r"celular|handy|fax|whats ?app|sms|dial|(?:call|text|ring|reach)(?: (?:me|us|him|her|them))? (?:at|on|back at|under))"
    r"(?:(?:['’]s)?[\s\"'’:=.#()_-]{1,4}(?:numbers?|no|nr|num|nummer|número|is|es|est|ist|lautet|at|on|under|me|us|him|her|them|the|my|our|work|home|business|office))"  # noqa: RUF001
    r"{0,4}[\s\"':=.#()-]{0,4}\Z",
    re.IGNORECASE,
)
_SAID_OTHER = re.compile(
    r"\b(?:serial|part|lot|ref(?:erence)?|order|invoice|case|docket|sku|model|item|product|isbn|issn|id|ticket|tracking|booking|account|acct|routing|"
    r"policy|row|page|score)s?(?:[ ._-]?(?:no|nr|num(?:ber)?|id|code))?[\s\"':=.#()-]{0,4}\Z",
    re.IGNORECASE,
)
"""What a number without a country code is called when it is none to call."""


def find_phones(text: str) -> Iterator[Span]:
    """Numbers with a country code, in the North American form, with a trunk zero in groups, or that the words before call one.

    A bare row of digits is none: it is an order, an item, a postcode.
    """
    found = [
        (match.start(), match.start() + length)
        for match in _INTERNATIONAL.finditer(text)
        if (length := _international(match[0]))
    ]
    for match in _NUMBER.finditer(text):
        if _is_phone(match[0], text, match.start()):
            start, end = match.span()
            if text[start] == "(" and ")" not in match[0]:
                start += 1
            found.append((start, end))
    yield from sorted(found)


def _international(number: str) -> int:
    """How much of `number`, which begins with a plus, is a phone number: another number may follow it."""
    while number[1:].strip():
        digits = _digits(number)
        long_enough = len(digits) == 11 if digits[0] in "17" else 8 <= len(digits) <= 15
        if (
            long_enough
            and _CALLING_CODE.match(digits)
            and len(re.findall(r"\d+", number)) <= 7
            and not re.match(r"\+\d{1,3}\.\d{5}", number)  # a signed decimal
        ):
            return len(number)
        shorter = _LAST_GROUP.sub("", number)
        if shorter == number:
            break
        number = shorter
    return 0


def _is_phone(number: str, text: str, start: int) -> bool:
    digits = _digits(number)
    groups = re.findall(r"\d+", number)
    before = text[max(0, start - 60) : start]
    if _DATE.match(number) or _SAID_OTHER.search(before):
        return False
    if _NORTH_AMERICAN.fullmatch(number):
        return True
    if re.search(r"\d[ \xa0-]\Z", before):
        return False  # the end of a longer number
    if digits.startswith("00") and len(groups) > 1:
        return 10 <= len(digits) <= 15 and _CALLING_CODE.match(digits, 2) is not None
    if 9 <= len(digits) <= 12 and _TRUNK.fullmatch(number):
        return True
    return 7 <= len(digits) <= 15 and _SAID.search(before) is not None
