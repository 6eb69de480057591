"""Content-Encoding of answers: gzip, br and deflate, whatever was asked for (RFC 9110, 8.4).

Calls ask for `identity`; gateways compress all the same. What comes out is bounded, so that a few bytes that
unfold to gigabytes cost a message and no memory.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

# Longest answer, as it comes and unfolded; one of 30,000 tokens with all its logprobs has 5 MiB.
MAX_BYTES = 32 * 1024 * 1024
# Encodings upon each other.
_MAX_LAYERS = 4
_GZIP_MAGIC = b"\x1f\x8b"
_PLAIN = frozenset({"", "identity", "none"})


class EncodingError(Exception):
    """A body that cannot be decoded: damaged, too long, or of an encoding that is not known.

    Attributes:
        is_unknown: the last of these; no other call will do better.
    """

    def __init__(self, reason: str, *, is_unknown: bool = False) -> None:
        super().__init__(reason)
        self.is_unknown = is_unknown


def decoded(body: bytes, encoding: str) -> bytes:
    """Return a body without its Content-Encoding.

    Args:
        encoding: the header; of several, the last was applied last.

    Raises:
        EncodingError: it cannot be decoded.
    """
    names = [name for part in encoding.split(",") if (name := part.strip().lower()) not in _PLAIN]
    if not names:
        # No JSON begins so: a gateway that leaves the header out.
        return _gunzip(body) if body.startswith(_GZIP_MAGIC) else body
    if len(names) > _MAX_LAYERS:
        raise EncodingError(f"its Content-Encoding has {len(names)} layers", is_unknown=True)
    found = body
    try:
        for name in reversed(names):
            decode = _DECODERS.get(name)
            if decode is None:
                raise EncodingError(
                    f"its Content-Encoding is {name[:40]!r}, which is not read (gzip, br and deflate "
                    f"are): let the endpoint, or the gateway before it, heed `Accept-Encoding: identity`",
                    is_unknown=True,
                )
            found = decode(found)
    except EncodingError:
        if body.lstrip()[:1] in (b"{", b"["):  # plain JSON, whatever the header says
            return body
        raise
    return found


def _gunzip(body: bytes) -> bytes:
    return _inflate(body, 16 + zlib.MAX_WBITS)


def _deflate(body: bytes) -> bytes:
    """Read `deflate` as it should be, in zlib's format, and as some servers have it, without."""
    is_wrapped = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0  # RFC 1950
    return _inflate(body, zlib.MAX_WBITS if is_wrapped else -zlib.MAX_WBITS)


def _inflate(body: bytes, window: int) -> bytes:
    parts, room = [], MAX_BYTES
    while body:
        engine = zlib.decompressobj(window)
        try:
            part = engine.decompress(body, room + 1)
        except zlib.error as error:
            raise EncodingError(f"it is damaged: {error}") from None
        room -= len(part)
        if room < 0:
            raise _too_long()
        if not engine.eof:
            raise EncodingError("it is damaged: its end is missing")
        parts.append(part)
        # gzip: several members one after the other are one text (RFC 1952, 2.2); else the rest is padding.
        body = engine.unused_data if engine.unused_data.startswith(_GZIP_MAGIC) else b""
    return b"".join(parts)


def _brotli(body: bytes) -> bytes:
    import brotli  # few endpoints send it

    engine = brotli.Decompressor()
    try:
        found: bytes = engine.process(body, output_buffer_limit=MAX_BYTES)
        if not engine.is_finished() and not engine.can_accept_more_data():
            raise _too_long()
    except brotli.error as error:
        raise EncodingError(f"it is damaged: {error}") from None
    if not engine.is_finished():
        raise EncodingError("it is damaged: its end is missing")
    if len(found) > MAX_BYTES:
        raise _too_long()
    return found


def _too_long() -> EncodingError:
    return EncodingError(f"it is longer than {MAX_BYTES // 1024 // 1024} MiB when it is unfolded")


_DECODERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": _gunzip,
    "x-gzip": _gunzip,
    "br": _brotli,
    "deflate": _deflate,
}
