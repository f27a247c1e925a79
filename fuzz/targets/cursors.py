"""Cursors of kept streams, as clients send them. The oracle is the grammar, tried by hand."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from streamproxy.store.cursor import Cursor, cursor_of, owner_digest, parse_cursor, storage_key

DICTIONARY = (b"AAAAAAAAAAAAAAAAAAAAAAAA/", b"/0", b"/01", b"999999999999999", b"last_event_id=", b"%2F", b"&", b"\n")
_LETTERS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_DIGITS = frozenset(b"0123456789")


def reference(value: bytes) -> Cursor | None:
    stream, slash, number = value[:24], value[24:25], value[25:]
    if len(stream) != 24 or not set(stream) <= _LETTERS or slash != b"/" or not number or len(number) > 15:
        return None
    if not set(number) <= _DIGITS or (number[0] == 0x30 and len(number) > 1):
        return None
    return Cursor(stream.decode(), int(number))


def check(data: bytes) -> None:
    cursor = parse_cursor(data)
    assert cursor == reference(data)
    if cursor is not None:
        assert cursor.render() == data
        assert cursor.stream not in storage_key(cursor.stream)
        assert len(owner_digest(cursor.stream, [data])) == 16
    found = cursor_of([(b"last-event-id", data)], None)
    assert found == cursor
    values = [unquote_to_bytes(pair[14:]) for pair in data.split(b"&") if pair.startswith(b"last_event_id=")]
    assert cursor_of([], data) == next((one for one in map(reference, values) if one is not None), None)
