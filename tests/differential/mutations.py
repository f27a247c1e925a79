"""Messages that two parsers may read differently, made from a seed.

A case is what a client sends on one connection, over HTTP/1.1 or HTTP/2: a mutated request and an ordinary one behind
it, which shows where the first was taken to end. Every target begins with ``/d/ID/``, so that an upstream knows whose request it sees.
"""

# ruff: noqa: E501  (tables of bytes)

from __future__ import annotations

import random

import hpack
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame

from tests.doubles.http2 import PREFACE

METHODS = [
    b"GET",
    b"POST",
    b"POST",
    b"POST",
    b"PUT",
    b"DELETE",
    b"HEAD",
    b"OPTIONS",
    b"get",
    b"M-SEARCH",
    b"PO ST",
    b"",
    b"TRACE",
]
SUFFIXES = [
    b"",
    b"?a=b",
    b"/../x",
    b"%2f%2e",
    b"//",
    b"#f",
    b"\xc3\xa9",
    b"a b",
    b"\tb",
    b"?a=b c",
    b"%",
    b"%00",
    b"\x00",
    b"\\",
    b";x",
    b'"',
]
VERSIONS = [b"HTTP/1.1"] * 12 + [
    b"HTTP/1.0",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/0.9",
    b"HTTP/11",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"",
]
HOSTS = [[b"Host: h"]] * 12 + [
    [], [b"Host: h", b"Host: i"], [b"Host: h, i"], [b"Host:"], [b"Host: h i"], [b"Host: u@h"], [b"Host: h/x"], [b"Host : h"],
    [b"Host: h:x"], [b"hOST:h"],
]  # fmt: skip
# How the body is announced; the body is BODY, of which the number is LENGTH.
FRAMINGS = [
    [b"Content-Length: %d"], [b"Content-Length: %d"], [b"Transfer-Encoding: chunked"], [b"Transfer-Encoding: chunked"], [],
    [b"Content-Length: %d", b"Transfer-Encoding: chunked"], [b"Transfer-Encoding: chunked", b"Content-Length: %d"],
    [b"Content-Length: %d", b"Content-Length: %d"], [b"Content-Length: %d", b"Content-Length: 0"], [b"Content-Length: %d, %d"],
    [b"Content-Length: +%d"], [b"Content-Length: 0%d"], [b"Content-Length: 0x%d"], [b"Content-Length: %d "], [b"Content-Length: -%d"],
    [b"Content-Length:%d"], [b"Content-Length : %d"], [b" Content-Length: %d"], [b"Content-Length: %d\x0b"], [b"Content_Length: %d"],
    [b"Content-Length: %d", b"Transfer-Encoding: identity"], [b"Transfer-Encoding: identity"], [b"Transfer-Encoding: gzip, chunked"],
    [b"Transfer-Encoding: chunked, chunked"], [b"Transfer-Encoding: chunked, identity"], [b"Transfer-Encoding: xchunked"],
    [b"Transfer-Encoding: Chunked"], [b"Transfer-Encoding:\tchunked"], [b"Transfer-Encoding: \x0bchunked"], [b"Transfer-Encoding: chunked\t"],
    [b"Transfer-Encoding : chunked"], [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"], [b"Transfer-Encoding:", b" chunked"],
    [b"Transfer-Encoding: chunked;q=1"], [b'Transfer-Encoding: "chunked"'], [b"Transfer_Encoding: chunked"], [b"Transfer-Encoding: chunked\x00"],
    [b"Transfer-\xc5ncoding: chunked"], [b"X: a\rTransfer-Encoding: chunked"], [b"Content-Length: %d", b"Connection: content-length"],
    [b"Transfer-Encoding: chunked", b"Connection: transfer-encoding"], [b"Content-Length: 99999999999999999999"],
]  # fmt: skip
FIELDS = [
    b"X: y", b"X:y", b"X :y", b"X: a\r\n b", b"X: a\n b", b": y", b"X", b"X: \x00", b"X: \x7f", b"X: \xff", b"X: a\rb", b"\x00: y", b"X(: y",
    b"Connection: close", b"Connection: keep-alive, x", b"Connection: host", b"Expect: 100-continue", b"Expect: x", b"Upgrade: h2c",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
    b"TE: trailers", b"Trailer: x", b"Keep-Alive: timeout=1", b"Proxy-Connection: close", b"Range: bytes=0-1", b"Max-Forwards: 0",
    b"X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8", b"Forwarded: for=_x", b"X-HTTP-Method-Override: DELETE",
]  # fmt: skip
ENDS = [b"\r\n"] * 16 + [b"\n", b"\r", b"\r\r\n", b"\n\r\n"]
SIZES = [
    b"%x",
    b"%x",
    b"%x",
    b"%X",
    b"0%x",
    b"%x ",
    b"%x\t",
    b"%x;a=b",
    b"%x ;a",
    b"%x;a\x0b",
    b'%x;a="\r\n"',
    b"0x%x",
    b"+%x",
    b"-%x",
    b"%x\n",
    b" %x",
    b"%xg",
    b"%x;\n",
]
LASTS = [b"0\r\n\r\n"] * 8 + [
    b"0\r\nX: y\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n", b"00\r\n\r\n", b"0\n\n", b"0;x\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX\r\n\r\n", b"0 \r\n\r\n",
    b"0\r\n", b"\r\n\r\n",
]  # fmt: skip


def case(number: int, seed: int) -> bytes:
    """Returns what a client sends; ``number`` is the case's ID."""
    chance = random.Random(f"{seed}.{number}")
    follower = b"GET /d/%d/second HTTP/1.1\r\nHost: h\r\n\r\n" % number
    smuggled = b"GET /d/%d/smuggled HTTP/1.1\r\nHost: h\r\n\r\n" % number
    content = chance.choice((b"body", b"", smuggled, b"0\r\n\r\n" + smuggled))
    framing = chance.choice(FRAMINGS[:5] if chance.random() < 0.4 else FRAMINGS)
    body = chunks(content, chance) if any(b"hunked" in line for line in framing) and chance.random() < 0.85 else content
    host = chance.choice(HOSTS) if chance.random() < 0.3 else [b"Host: h"]
    lines = [*host, *(line.replace(b"%d", b"%d" % len(body)) for line in framing)]
    for _ in range(chance.choice((0, 0, 1, 2))):
        lines.insert(chance.randint(0, len(lines)), chance.choice(FIELDS))
    target = b"/d/%d/first" % number + (chance.choice(SUFFIXES) if chance.random() < 0.3 else b"")
    if chance.random() < 0.05:
        target = b"http://" + chance.choice((b"h", b"i", b"u@h", b"")) + target
    method = chance.choice(METHODS) if chance.random() < 0.3 else b"POST"
    version = chance.choice(VERSIONS) if chance.random() < 0.15 else b"HTTP/1.1"
    head = b" ".join(part for part in (method, target, version) if part)
    end = chance.choice(ENDS) if chance.random() < 0.2 else b"\r\n"
    joined = head + end + b"".join(line + (end if chance.random() < 0.5 else b"\r\n") for line in lines)
    return chance.choice((b"", b"", b"", b"", b"\r\n", b"\n")) + joined + b"\r\n" + body + follower


def chunks(content: bytes, chance: random.Random) -> bytes:
    """Frames some content as chunks, mostly in the usual way."""
    framed = b""
    while content:
        size = chance.randint(1, len(content))
        form = chance.choice(SIZES) if chance.random() < 0.3 else b"%x"
        wrong = chance.choice((0, 0, 0, 0, 0, 0, 1, -1)) if size > 1 else 0
        line_end = b"\r\n" if chance.random() < 0.95 else b"\n"
        framed += form % (size + wrong) + line_end + content[:size] + b"\r\n"
        content = content[size:]
    return framed + (chance.choice(LASTS) if chance.random() < 0.4 else b"0\r\n\r\n")


# HTTP/2: what HTTP/1.1 has a meaning for, and HTTP/2 has none.

Fields = list[tuple[bytes, bytes]]

PSEUDO: list[Fields] = [
    [(b":method", b"POST")], [(b":path", b"/other")], [(b":path", b"")], [(b":authority", b"i")], [(b":scheme", b"https")],
    [(b":scheme", b"")], [(b":status", b"200")], [(b":protocol", b"websocket")], [(b":unknown", b"x")], [(b":method", b"")],
]  # fmt: skip
H2_FIELDS: list[Fields] = [
    [(b"transfer-encoding", b"chunked")], [(b"transfer-encoding", b"identity")], [(b"connection", b"close")],
    [(b"connection", b"x-a"), (b"x-a", b"b")], [(b"keep-alive", b"timeout=1")], [(b"upgrade", b"h2c")], [(b"te", b"gzip")],
    [(b"te", b"trailers")], [(b"proxy-connection", b"close")], [(b"host", b"h")], [(b"host", b"i")], [(b"host", b"")],
    [(b"Upper", b"x")], [(b"x", b"a\r\nTransfer-Encoding: chunked")], [(b"x", b"a\nX: b")], [(b"x", b"a\rb")], [(b"x", b"\x00")],
    [(b"x\r\ny", b"z")], [(b"x: y\r\nz", b"a")], [(b"x:", b"a")], [(b"", b"x")], [(b"x y", b"z")], [(b"x", b" y ")],
    [(b"cookie", b"a=b"), (b"cookie", b"c=d")], [(b"expect", b"100-continue")], [(b"content-length", b"%d")],
    [(b"content-length", b"0")], [(b"content-length", b"%d"), (b"content-length", b"0")], [(b"content-length", b"%d, %d")],
    [(b"content-length", b"1%d")], [(b"content-length", b"+%d")], [(b"content-length", b"")], [(b"content-length", b"x")],
    [(b"content-length", b"%d\r\nX: y")], [(b"content-length", b"99999999999999999999")], [(b"trailer", b"x")],
]  # fmt: skip


def http2_case(number: int, seed: int) -> bytes:
    """Returns what a client sends over HTTP/2, the preface first; ``number`` is the case's ID."""
    chance = random.Random(f"http2 {seed}.{number}")
    smuggled = b"GET /d/%d/smuggled HTTP/1.1\r\nHost: h\r\n\r\n" % number
    content = chance.choice((b"body", b"", smuggled, b"0\r\n\r\n" + smuggled))
    target = b"/d/%d/first" % number + (chance.choice(SUFFIXES) if chance.random() < 0.3 else b"")
    if chance.random() < 0.1:
        target = chance.choice(
            (target + b" HTTP/1.1\r\nHost: h\r\n\r\n" + smuggled, target[1:], b"http://h" + target, b"*")
        )
    method = (
        chance.choice([*METHODS, b"GET / HTTP/1.1\r\nX: y\r\n\r\n", b"CONNECT"]) if chance.random() < 0.3 else b"POST"
    )
    fields = [(b":method", method), (b":scheme", b"http"), (b":authority", b"h"), (b":path", target)]
    if chance.random() < 0.2:
        fields[chance.randrange(4)] = chance.choice(PSEUDO)[0]
    for _ in range(chance.choice((0, 1, 1, 2))):
        at = chance.randint(0, len(fields)) if chance.random() < 0.2 else len(fields)
        fields[at:at] = chance.choice(PSEUDO if chance.random() < 0.15 else H2_FIELDS)
    fields = [(name, value.replace(b"%d", b"%d" % len(content))) for name, value in fields]
    encoder, trailers = hpack.Encoder(), chance.choice(H2_FIELDS) if chance.random() < 0.15 else None
    frames: list[Frame] = [HeadersFrame(1, encoder.encode(fields), flags=["END_HEADERS"])]
    cut = chance.randint(0, len(content))
    frames += [DataFrame(1, piece) for piece in (content[:cut], content[cut:]) if piece]
    if trailers is not None:
        frames.append(HeadersFrame(1, encoder.encode(trailers), flags=["END_HEADERS"]))
    frames += [DataFrame(1, b"")] if isinstance(frames[-1], HeadersFrame) and content and trailers is None else []
    if chance.random() < 0.95:
        frames[-1].flags.add("END_STREAM")
    second = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/d/%d/second" % number)]
    frames.append(HeadersFrame(3, encoder.encode(second), flags=["END_HEADERS", "END_STREAM"]))
    return PREFACE + SettingsFrame(0).serialize() + b"".join(frame.serialize() for frame in frames)


# Responses: what an upstream sends for /d/ID/first. Behind it comes what a confused proxy would take for the next.

STATUSES = [b"200 OK"] * 8 + [
    b"204 No Content",
    b"304 Not Modified",
    b"205 Reset",
    b"100 Continue",
    b"103 Early",
    b"101 Switching",
    b"099 X",
    b"600 X",
    b"20 X",
    b"200",
    b"2000 X",
    b"200\x00OK",
    b"200 \xff",
]


def response(number: int, seed: int) -> bytes:
    """Returns the bytes of a mutated response to the first request of a case."""
    chance = random.Random(f"response {seed}.{number}")
    poison = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison"
    content = chance.choice((b"first", b"", poison, b"0\r\n\r\n" + poison))
    framing = chance.choice(FRAMINGS[:5] if chance.random() < 0.4 else FRAMINGS)
    body = chunks(content, chance) if any(b"hunked" in line for line in framing) and chance.random() < 0.85 else content
    lines = [line.replace(b"%d", b"%d" % len(body)) for line in framing]
    for _ in range(chance.choice((0, 0, 1))):
        lines.insert(chance.randint(0, len(lines)), chance.choice(FIELDS))
    version = chance.choice(VERSIONS) if chance.random() < 0.1 else b"HTTP/1.1"
    status = chance.choice(STATUSES) if chance.random() < 0.3 else b"200 OK"
    end = chance.choice(ENDS) if chance.random() < 0.2 else b"\r\n"
    head = (
        version + b" " + status + end + b"".join(line + (end if chance.random() < 0.5 else b"\r\n") for line in lines)
    )
    return head + b"\r\n" + body + chance.choice((b"", b"", poison, b"\r\n"))
