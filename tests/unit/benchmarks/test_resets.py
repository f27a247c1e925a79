"""The flood of streams that are reset at once."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events

from benchmarks.resets import flood


def test_the_flood_is_what_a_server_takes_for_requests_and_their_resets() -> None:
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    events = server.receive_data(flood(3))
    requests = [event for event in events if isinstance(event, h2.events.RequestReceived)]
    resets = [event for event in events if isinstance(event, h2.events.StreamReset)]
    assert [event.stream_id for event in requests] == [event.stream_id for event in resets] == [1, 3, 5]
    assert dict(requests[0].headers or ())[b":method"] == b"GET"
