"""The configuration of the demo's proxy, and what to try with it."""

from __future__ import annotations

import json

_CONFIG = """\
# The demo's configuration: one upstream, and a route for each kind of stream.
server:
  listen: {listen}
admin:
  listen: {admin}
upstreams:
  demo:
    endpoints: [{upstream}]
routes:
  - name: llm
    path: [/v1/chat/completions, /v1/messages]
    methods: [POST]
    upstream: demo
  - name: models
    path: /v1/models
    upstream: demo
  - name: events
    path: /events
    upstream: demo
  - name: ndjson
    path: /ndjson
    upstream: demo
  - name: slow                  # silent for longer than its keepalive, so that the comments show
    path: /slow
    upstream: demo
    keepalive: 2s
  - name: broken                # the client sees a connection that broke
    path: /broken
    upstream: demo
  - name: broken-told           # the same stream, and the client is told in an event
    path: /told/broken
    rewrite: {{strip_prefix: /told}}
    upstream: demo
    on_truncation: error_event
  - name: download
    path: /download
    upstream: demo
  - name: upload
    path: /upload
    methods: [POST]
    upstream: demo
"""

_BANNER = """\
streamproxy demo: an LLM-like upstream behind the proxy at {base}. Commands to try:

  A chat completion, token by token (OpenAI's API), and whole:
    curl -N {base}/v1/chat/completions -H 'content-type: application/json' -d '{openai_stream}'
    curl {base}/v1/chat/completions -H 'content-type: application/json' -d '{openai_whole}'

  A message, token by token (Anthropic's API):
    curl -N {base}/v1/messages -H 'content-type: application/json' -d '{anthropic_stream}'

  A clock of server-sent events, for ever, and where a client that comes back goes on:
    curl -N {base}/events
    curl -N '{base}/events?count=3' -H 'last-event-id: 41'

  The same clock in lines of JSON:
    curl -N '{base}/ndjson?interval=0.2&count=10'

  A first token that is 7 seconds late: comments keep the line open every 2 seconds.
    curl -N '{base}/slow?delay=7'

  A stream that dies: curl reports it, or the proxy says so in a last event.
    curl -N {base}/broken
    curl -N {base}/told/broken

  A gigabyte down, 10 MB up:
    curl -o /dev/null {base}/download
    head -c 10000000 /dev/zero | curl -X POST -T - {base}/upload

  What runs, and what was measured:
    curl {admin}/streams
    curl {admin}/metrics
"""


def demo_config(upstream_url: str, listen: str = "127.0.0.1:8080", admin: str = "127.0.0.1:9090") -> str:
    """The demo's configuration, as the YAML text of a configuration file.

    ``upstream_url`` is the base URL at which `upstream_app` is served; ``listen`` and ``admin`` are the listeners'
    addresses in the form of ``server.listen``.
    """
    # A JSON string is a YAML string whatever is in it: "[::1]:8080" would be a list otherwise.
    return _CONFIG.format(listen=json.dumps(listen), admin=json.dumps(admin), upstream=json.dumps(upstream_url))


def banner(base_url: str, admin_url: str) -> str:
    """What the terminal shows when the demo serves: commands that work, line by line, against these two base URLs."""
    prompt = {"messages": [{"role": "user", "content": "What is a stream?"}]}
    return _BANNER.format(
        base=base_url.rstrip("/"),
        admin=admin_url.rstrip("/"),
        openai_stream=json.dumps({"model": "demo-1", "stream": True, **prompt}),
        openai_whole=json.dumps({"model": "demo-1", "max_tokens": 7, **prompt}),
        anthropic_stream=json.dumps({"model": "demo-1", "max_tokens": 100, "stream": True, **prompt}),
    )
