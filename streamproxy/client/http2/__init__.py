"""Our own HTTP/2 client, in httpx's shape: streams of one endpoint share its connections.

- `client`: `Http2Client`, and a request with its response
- `connection`: the protocol between a transport and the session
- `streams`: the streams of a connection, as exchanges use them
- `liveness`: whether a silent connection is alive, without I/O
- `state`: what is known of one response, without I/O
- `body`: what goes out behind a head
"""

from streamproxy.client.http2.client import Http2Client

__all__ = ["Http2Client"]
