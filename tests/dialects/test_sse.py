from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.dialects.sse import SSEEvent, SSEParser
from headrace.errors import Malformed


def parse(*pieces: bytes, max_event_bytes: int = 1 << 23) -> list[SSEEvent]:
    parser = SSEParser(max_event_bytes=max_event_bytes)
    events: list[SSEEvent] = []
    for piece in pieces:
        events += parser.feed(piece)
    return events + parser.close()


def datas(*pieces: bytes) -> list[tuple[str, bytes]]:
    return [(event.name, event.data) for event in parse(*pieces) if not event.comment]


@pytest.mark.parametrize("eol", [b"\n", b"\r\n", b"\r"])
def test_line_ends(eol: bytes) -> None:
    """All three line ends of the standard close lines and events."""
    text = b"event: a\ndata: one\n\ndata: two\n\n".replace(b"\n", eol)
    events = parse(text)
    assert [(e.name, e.data) for e in events] == [("a", b"one"), ("", b"two")]
    assert b"".join(e.raw for e in events) == text


def test_forms_of_a_data_line() -> None:
    """The space is optional, only one is taken, a bare `data` is an empty line, and lines are joined by LF."""
    text = b"data:x\n\ndata:  y\n\ndata\n\ndata:\ndata: b\n\nid: 7\nretry: 1\ndata: z\nother: q\n\n"
    assert datas(text) == [("", b"x"), ("", b" y"), ("", b""), ("", b"\nb"), ("", b"z")]


def test_comments_are_kept_and_flagged() -> None:
    """A comment of its own is an event with the flag; one before data belongs to the bytes of that event."""
    events = parse(b": OPENROUTER PROCESSING\n\n: again\ndata: x\n\nevent: lone\n\n")
    assert [(e.comment, e.data, e.raw) for e in events] == [
        (True, b"", b": OPENROUTER PROCESSING\n\n"),
        (False, b"x", b": again\ndata: x\n\n"),
        (True, b"", b"event: lone\n\n"),
    ]


def test_missing_last_blank_line() -> None:
    """The last event is given out at the end when its blank line never came."""
    assert datas(b"data: x\n\ndata: [DONE]") == [("", b"x"), ("", b"[DONE]")]
    assert datas(b"data: x\n\ndata: [DONE]\n") == [("", b"x"), ("", b"[DONE]")]
    assert datas(b"data: x\r\n\r\ndata: y\r\n\r") == [("", b"x"), ("", b"y")]


def test_what_the_end_left_of_an_event() -> None:
    """The missing blank line is put behind the bytes, so that what a relay says next is not part of them; what has no data is dropped."""
    assert [event.raw for event in parse(b"data: [DONE]")] == [b"data: [DONE]\n\n"]
    assert [event.raw for event in parse(b"data: [DONE]\n")] == [b"data: [DONE]\n\n"]
    for rest in (b"da", b"data", b"data: ", b"event: message_stop", b": comm"):
        assert [event.data for event in parse(b"data: x\n\n" + rest)] == [b"x"], rest


def test_a_read_that_ends_in_a_name() -> None:
    """The first event is found once, although the name behind it has no line end yet."""
    parser = SSEParser()
    assert [event.data for event in parser.feed(b"data: x\n\nevent: late")] == [b"x"]
    assert [(event.name, event.data) for event in parser.feed(b"r\ndata: y\n\n")] == [("later", b"y")]


def test_byte_order_mark_at_the_start_only() -> None:
    """The mark is no part of the first field; later it is."""
    assert datas(b"\xef\xbb\xbfdata: x\n\n\xef\xbb\xbfdata: y\n\n") == [("", b"x")]
    assert datas(b"\xef", b"\xbb", b"\xbfdata: x\n\n") == [("", b"x")]


def test_lone_cr_is_not_held_back() -> None:
    """An event closed by two CRs is given out at once, though an LF might follow."""
    parser = SSEParser()
    assert [e.data for e in parser.feed(b"data: x\r\r")] == [b"x"]
    assert [e.data for e in parser.feed(b"\ndata: y\r\r")] == [b"y"]


def test_crlf_cut_in_the_blank_line_keeps_its_bytes_together() -> None:
    """A read that ends between CR and LF of the blank line leaves the LF with its event."""
    events = parse(b"data: x\r\n\r", b"\ndata: y\r\n\r\n")
    assert [e.raw for e in events] == [b"data: x\r\n\r\n", b"data: y\r\n\r\n"]


def test_too_long_an_event() -> None:
    """The limit holds for an event in one read, one in many, and one made of blank lines; what was whole comes first."""
    with pytest.raises(Malformed, match="longer than 20 bytes"):
        parse(b"data: " + b"x" * 20 + b"\n\n", max_event_bytes=20)
    with pytest.raises(Malformed):
        parse(*[b"x"] * 21, max_event_bytes=20)
    with pytest.raises(Malformed):
        parse(*[b"\n"] * 21, max_event_bytes=20)
    parser = SSEParser(max_event_bytes=20)
    assert [e.data for e in parser.feed(b"data: x\n\ndata: " + b"y" * 40)] == [b"x"]
    with pytest.raises(Malformed):
        parser.feed(b"")
    with pytest.raises(Malformed):
        parser.close()
    assert len(parse(b"data: " + b"x" * 12 + b"\n\n", max_event_bytes=20)) == 1


def test_a_long_event_in_small_pieces_is_linear() -> None:
    """4 MiB in 1 kB reads, and as many blank lines, take no quadratic time (the suite's timeout would end it)."""
    piece = b"x" * 1024
    assert len(datas(b"data: ", *[piece] * 4096, b"\n\n")[0][1]) == 4 << 20
    parser = SSEParser()
    for _ in range(4096):
        parser.feed(b"\n" * 1024)
    assert [e.data for e in parser.feed(b"data: x\n\n")] == [b"x"]


LINES = st.sampled_from(
    [
        b"data: x",
        b"data:y",
        b"data",
        b"event: e",
        b": c",
        b"",
        b"",
        b"",
        b"id: 1",
        "data: \u00e9\u4e16".encode(),
    ]
)
EOLS = st.sampled_from([b"\n", b"\r\n", b"\r"])
TEXTS = st.one_of(
    st.lists(st.tuples(LINES, EOLS)).map(lambda rows: b"".join(a + b for a, b in rows)),
    st.tuples(EOLS, st.lists(LINES)).map(lambda row: row[0].join(row[1])),
    st.lists(st.sampled_from([b"\r", b"\n", b"d", b"data:", b"\xef\xbb\xbf", b":"])).map(b"".join),
    st.binary(max_size=40),
)


def reference(text: bytes) -> list[tuple[str, bytes]]:
    """The standard's algorithm, line by line, with our one difference at the end."""
    out: list[tuple[str, bytes]] = []
    name, lines = "", list[bytes]()
    for line in text.removeprefix(b"\xef\xbb\xbf").splitlines():
        if line == b"":
            if lines:
                out.append((name, b"\n".join(lines)))
            name, lines = "", []
            continue
        field, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if field == b"event":
            name = value.decode(errors="replace")
        elif field == b"data":
            lines.append(value)
    return [*out, (name, b"\n".join(lines))] if any(lines) or len(lines) > 1 else out


@given(TEXTS)
def test_as_the_standard_says(text: bytes) -> None:
    """The events are those of the standard's own line-by-line algorithm."""
    assert datas(text) == reference(text)


@given(TEXTS, st.lists(st.integers(0, 60)))
def test_any_split_gives_the_same_events(text: bytes, cuts: list[int]) -> None:
    """Events, bytes included, do not depend on how the reads fall; the bytes of all events are the stream, but for its very end."""
    whole = parse(text)
    at = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    assert parse(*[text[a:b] for a, b in pairwise(at)]) == whole
    assert parse(*[text[i : i + 1] for i in range(len(text))]) == whole
    joined = b"".join(event.raw for event in whole)
    if joined != text.rstrip(b"\r\n") + b"\n\n":  # else its blank line was missing, or of another kind
        assert text.startswith(joined)
        assert datas(b":\n\n" + text[len(joined) :]) == []
