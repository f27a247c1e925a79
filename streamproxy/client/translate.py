"""Translates the exceptions of client libraries to ours.

httpx, httpx2 and libraries with the same interface raise exceptions with the same names. They are looked up by name, so
that no library needs to be installed. The underlying cause (a refused connection, an unknown name, a certificate) is
found in the chain of causes.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

from streamproxy import errors
from streamproxy.errors import ExchangeError


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the exception, its causes, and the members of exception groups among them, each once."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
        todo += [one.__cause__, one.__context__]


def connect_error(error: BaseException) -> ExchangeError:
    """Returns the error for a connection that could not be made."""
    note = f"{type(error).__name__}: {error}"
    for cause in causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return errors.TlsCertificateRefused(note=f"{note}: {cause.verify_message}")
        if isinstance(cause, ssl.SSLError):
            return errors.TlsFailed(note=note)
        if isinstance(cause, socket.gaierror):
            return errors.DnsFailed(note=note)
        if isinstance(cause, ConnectionRefusedError | FileNotFoundError):
            return errors.ConnectionRefused(note=note)
        if isinstance(cause, TimeoutError):
            return errors.ConnectTimeout(note=note)
        if "certificate verify failed" in str(cause).lower():
            return errors.TlsCertificateRefused(note=note)
    return errors.DestinationUnavailable("The upstream can't be reached", note=note)


def translate(error: Exception, *, head_seen: bool) -> ExchangeError:
    """Returns the error for an exception of a client library, before or after the response head."""
    if isinstance(error, ExchangeError):
        return error
    for cause in causes(error):
        if isinstance(cause, ExchangeError):
            return cause
    names = {cls.__name__ for cls in type(error).__mro__}
    note = f"{type(error).__name__}: {error}"
    if "PoolTimeout" in names:
        return errors.LimitReached("All connections to the upstream are in use", note=note, retry_after=1)
    if "ConnectTimeout" in names:
        return errors.ConnectTimeout(note=note)
    if names & {"ConnectError", "ProxyError"}:
        return connect_error(error)
    if "LocalProtocolError" in names:
        return errors.BadRequest(note=note)
    if not names & {"TransportError", "HTTPError", "OSError", "EOFError", "StreamError"}:
        return errors.InternalError(note=note)
    if head_seen:
        return errors.ResponseIncomplete(note=note)
    if "RemoteProtocolError" in names and "disconnected" not in str(error):
        return errors.BadResponse(note=note)
    if isinstance(error, ConnectionRefusedError | socket.gaierror | ssl.SSLError):
        return connect_error(error)
    return errors.ConnectionTerminated(note=note)
