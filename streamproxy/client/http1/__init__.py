"""Our own HTTP/1.1 client, with httpx's interface.

- `client`: `NativeClient`, and a request with its response
- `connection`: the protocol between a transport and the reader of a response
- `response`: parses responses, without I/O
- `request`, `body`: request targets and framing, and sending the body
- `tunnel`: a connection after 101 (Switching Protocols)
"""

from streamproxy.client.http1.client import NativeClient, Stream
from streamproxy.client.tls import client_context

__all__ = ["NativeClient", "Stream", "client_context"]
