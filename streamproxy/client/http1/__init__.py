"""Our own HTTP/1.1 client, in httpx's shape: lean enough to stand beside a proxy written in C.

- `client`: `NativeClient`, and a request with its response
- `pool`: the connections of an endpoint
- `connection`: the protocol between a transport and the reader of a response
- `response`: what the parser makes of the bytes, without I/O
- `connect`, `resolve`, `tls`: making a connection
- `request`, `body`: what goes out
"""

from streamproxy.client.http1.client import NativeClient, Stream
from streamproxy.client.tls import client_context

__all__ = ["NativeClient", "Stream", "client_context"]
