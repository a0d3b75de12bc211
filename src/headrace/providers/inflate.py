"""Undoing `content-encoding`, a bounded piece at a time."""

from __future__ import annotations

import zlib

__all__ = ["ENCODINGS", "Inflater"]

ENCODINGS = frozenset({"gzip", "x-gzip", "deflate"})
"""What `Inflater` undoes. We ask for `identity`, so any of these is a server's own idea."""

PIECE = 262_144
"""Bytes that come out of one call at most: what one read of the socket brings, so that a bomb costs no more than honest bytes."""

_GZIP = 16 + zlib.MAX_WBITS
_ZLIB = zlib.MAX_WBITS
_RAW = -zlib.MAX_WBITS


class Inflater:
    """One compressed body. Feed it with `inflate`; while `pending`, call it again with nothing before feeding more.

    gzip may have several members. `deflate` is zlib's format, or the bare one that some servers send instead.
    """

    __slots__ = ("_begun", "_decompress", "_gzip", "_tail", "pending")

    def __init__(self, encoding: str) -> None:
        assert encoding in ENCODINGS
        self._gzip = encoding != "deflate"
        self._decompress = zlib.decompressobj(_GZIP if self._gzip else _ZLIB)
        self._tail = b""
        self._begun = False
        self.pending = False

    def inflate(self, data: bytes) -> bytes:
        """The next bytes, at most `PIECE`, possibly none. Raises `zlib.error` when `data` is not what it says it is."""
        data = self._tail + data
        if self._decompress.eof:
            if not data:
                self.pending = False
                return b""
            if not self._gzip:
                raise zlib.error("bytes after the end of the compressed body")
            self._decompress = zlib.decompressobj(_GZIP)
        try:
            out = self._decompress.decompress(data, PIECE)
        except zlib.error:
            if self._gzip or self._begun:
                raise
            self._decompress = zlib.decompressobj(_RAW)
            out = self._decompress.decompress(data, PIECE)
        self._begun = self._begun or data != b""
        self._tail = self._decompress.unconsumed_tail or self._decompress.unused_data
        self.pending = self._tail != b"" or len(out) == PIECE
        return out

    @property
    def whole(self) -> bool:
        """Whether the body may end here: nothing was fed, or the format's own end has been seen."""
        return not self._begun or self._decompress.eof
