"""Finds unusable credentials of a route while the configuration is read.

The parsers are those of `streamproxy.auth.build`, so a file that passes here loads there. Unreadable files are reported
elsewhere, together with the other files of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from streamproxy.auth.bearer import parse_tokens
from streamproxy.auth.build import NO_JWT, OpenFile
from streamproxy.config.document import Document, Finding
from streamproxy.config.redact import Path
from streamproxy.config.units import is_off


def examine(document: Document, open_file: OpenFile) -> Iterator[Finding]:
    """Yields every problem with tokens, keys and secrets, at its position in the configuration."""
    for path in document.match(("routes", "*", "auth", "bearer", "tokens", "*", "file")):
        yield from _content(document, path, open_file, parse_tokens)
    for path in document.match(("routes", "*", "auth", "jwt")):
        if isinstance(document.get(path), dict):
            yield from _signed(document, path, open_file)


def _signed(document: Document, path: Path, open_file: OpenFile) -> Iterator[Finding]:
    try:
        from streamproxy.auth.jwt import ASYMMETRIC, parse_jwks, secret_keys
    except ImportError:
        yield Finding(path, NO_JWT, at_key=True)
        return
    given = document.get((*path, "algorithms"))
    algorithms = [given] if isinstance(given, str) else [one for one in given or () if isinstance(one, str)]
    yield from _content(document, (*path, "jwks_file"), open_file, lambda data: parse_jwks(data, algorithms))
    secret = document.get((*path, "secret"))
    if isinstance(secret, str) and not is_off(secret):
        try:
            secret_keys(secret, algorithms)
        except ValueError as error:
            if str(error) == ASYMMETRIC:  # other faults are reported by the checks of the section
                yield Finding((*path, "secret"), ASYMMETRIC)


def _content(
    document: Document, path: Path, open_file: OpenFile, parse: Callable[[bytes], object]
) -> Iterator[Finding]:
    name = document.get(path)
    if not isinstance(name, str) or is_off(name):
        return
    try:
        parse(open_file(name).read())
    except (OSError, UnicodeEncodeError):
        return
    except ValueError as error:
        yield Finding(path, f"cannot be used: {error}")
