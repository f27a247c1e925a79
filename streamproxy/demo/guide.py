"""The configuration of the demo's proxy, and requests to try: commands for the terminal and buttons for the page."""

from __future__ import annotations

import json

from streamproxy.admin.tries import Try

_CONFIG = """\
# The demo's configuration: one upstream of two endpoints, and a route for each kind of stream.
server:
  listen: {listen}
admin:
  listen: {admin}
upstreams:
  demo:
    endpoints: {upstreams}
    balance: least_load         # by the load that the engines report
    load: {{source: vllm}}
    outlier: off                # its failures are on purpose
    # What this upstream calls the models of requests. Models that are named here are labels of metrics.
    models: {{demo-1: demo-1, gpt-4o: demo-2, demo-fails: demo-fails}}
routes:
  - name: second-model          # selected by the model in the body
    path: [/v1/chat/completions, /v1/messages]
    methods: [POST]
    models: [demo-2, gpt-4o]
    protocol: auto
    usage: ask
    upstream: demo
    cors: &page {{origins: "*"}}  # for the buttons of the page, which comes from another port
  - name: llm                   # five APIs, whose errors, ends, failures and tokens are understood
    path:
      - /v1/chat/completions
      - /v1/completions
      - /v1/responses
      - /v1/messages
      - /v1beta/models/*
      - /api/chat
      - /api/generate
    methods: [POST]
    protocol: auto
    usage: ask
    keepalive: {{ndjson: on}}
    upstream: demo
    cors: *page
  - name: tenants               # who asks is known by a token, and has a quota
    path: /tenants/v1/chat/completions
    methods: [POST]
    protocol: openai
    usage: ask
    rewrite: {{strip_prefix: /tenants}}
    upstream: demo
    auth: {{bearer: {{tokens: [{{name: red, token: red-key}}, {{name: blue, token: blue-key}}]}}}}
    limits: {{client_key: principal, tokens: {{rate: 100/1h}}}}
    cors: *page
  - name: resumable             # a stream that outlives its client's connection
    path: /kept/v1/chat/completions
    methods: [POST]
    protocol: openai
    rewrite: {{strip_prefix: /kept}}
    resume: {{ids: on}}
    upstream: demo
  - name: mute                  # an endpoint that sends only its head: another one is tried, then 504
    path: /mute
    upstream: demo
    retry: {{attempts: 2, on: [first_event], until: first_event}}
    timeouts: {{first_event: 1s, idle: 3s}}
    cors: *page
  - name: ws
    path: /ws
    upstream: demo
  - name: models
    path: /v1/models
    upstream: demo
  - name: events
    path: /events
    upstream: demo
    cors: *page
  - name: ndjson
    path: /ndjson
    upstream: demo
    cors: *page
  - name: slow                  # silent for longer than its keepalive, so that the comments show
    path: /slow
    upstream: demo
    keepalive: 2s
    cors: *page
  - name: broken                # the client sees a broken connection
    path: /broken
    upstream: demo
    cors: *page
  - name: broken-told           # the same stream, with an event that reports it
    path: /told/broken
    rewrite: {{strip_prefix: /told}}
    upstream: demo
    on_truncation: error_event
    cors: *page
  - name: download
    path: /download
    upstream: demo
  - name: upload
    path: /upload
    methods: [POST]
    upstream: demo
"""

_BANNER = """\
streamproxy demo: an LLM-like upstream behind the proxy at {base}.

The page of the live streams, with buttons to start some: {admin}/

Commands to try:

  A chat completion, token by token (OpenAI's API), and whole:
    curl -N {base}/v1/chat/completions -H 'content-type: application/json' -d '{openai_stream}'
    curl {base}/v1/chat/completions -H 'content-type: application/json' -d '{openai_whole}'

  A message, token by token (Anthropic's API):
    curl -N {base}/v1/messages -H 'content-type: application/json' -d '{anthropic_stream}'

  The same with OpenAI's Responses and text completions, Gemini, and Ollama's chat and generate:
    curl -N {base}/v1/responses -H 'content-type: application/json' -d '{responses}'
    curl -N {base}/v1/completions -H 'content-type: application/json' -d '{text}'
    curl -N '{base}/v1beta/models/demo-1:streamGenerateContent?alt=sse' -d '{gemini}'
    curl -N {base}/api/chat -d '{ollama}'
    curl -N {base}/api/generate -d '{ollama_text}'

  A model that is called demo-2 upstream, and one that fails inside its stream: see the log and the gen_ai_ metrics.
    curl -N {base}/v1/chat/completions -H 'content-type: application/json' -d '{alias}'
    curl -N {base}/v1/chat/completions -H 'content-type: application/json' -d '{failing}'

  Two tenants with 100 tokens an hour each, and then 429. For each request the page and the log have the tenant, the
  model, the tokens, and how long the first word took.
    curl -N {base}/tenants/v1/chat/completions -H 'authorization: Bearer red-key' -d '{openai_stream}'
    curl -N {base}/tenants/v1/chat/completions -H 'authorization: Bearer blue-key' -d '{alias}'
  The tokens of all by model, and the seconds until first words (docs/tokens.md adds up the log by tenant):
    curl -s {admin}/metrics | grep -E '^gen_ai_client_(token_usage|operation_time_to_first_chunk_seconds)_sum'

  A resumable stream: interrupt it with Ctrl-C, then send the last id that arrived.
    curl -N {base}/kept/v1/chat/completions -H 'content-type: application/json' -d '{kept}'
    curl -N {base}/kept/v1/chat/completions -H "last-event-id: $ID"

  An endless clock of server-sent events, and how a client resumes it:
    curl -N {base}/events
    curl -N '{base}/events?count=3' -H 'last-event-id: 41'

  The same clock in lines of JSON:
    curl -N '{base}/ndjson?interval=0.2&count=10'

  A first token after 7 seconds: a comment every 2 seconds keeps the connection open.
    curl -N '{base}/slow?delay=7'

  An engine that sends only its head: the other endpoint is tried, and then the response is 504.
    curl -i {base}/mute

  A WebSocket echo: use any WebSocket client, or send the handshake with curl.
    curl -isN --max-time 1 {base}/ws -H 'connection: upgrade' -H 'upgrade: websocket' {handshake}

  A stream that breaks: curl reports it, and on the second route so does a last event.
    curl -N {base}/broken
    curl -N {base}/told/broken

  Download a gigabyte, and upload 10 MB:
    curl -o /dev/null {base}/download
    head -c 10000000 /dev/zero | curl -X POST -T - {base}/upload

  The live streams, and the metrics:
    curl {admin}/streams
    curl {admin}/metrics
"""


_QUESTION = "What is a stream?"
_PROMPT = {"messages": [{"role": "user", "content": _QUESTION}]}
_HANDSHAKE = "-H 'sec-websocket-version: 13' -H 'sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=='"


def demo_config(*upstream_urls: str, listen: str = "127.0.0.1:8080", admin: str = "127.0.0.1:9090") -> str:
    """Returns the demo's configuration as the YAML text of a configuration file.

    ``upstream_urls`` are the base URLs of `upstream_app`. ``listen`` and ``admin`` are the addresses of the listeners,
    in the form of ``server.listen``.
    """
    # A JSON string is always a YAML string, while [::1]:8080 would be a list.
    return _CONFIG.format(listen=json.dumps(listen), admin=json.dumps(admin), upstreams=json.dumps(upstream_urls))


def banner(base_url: str, admin_url: str) -> str:
    """Returns the text for the terminal: commands that work with these two base URLs, one on each indented line."""
    streamed = {"stream": True, "model": "demo-1"}
    bodies = {
        "openai_stream": {"model": "demo-1", "stream": True, **_PROMPT},
        "openai_whole": {"model": "demo-1", "max_tokens": 7, **_PROMPT},
        "anthropic_stream": {"model": "demo-1", "max_tokens": 100, "stream": True, **_PROMPT},
        "responses": {**streamed, "input": _QUESTION},
        "text": {**streamed, "prompt": _QUESTION},
        "gemini": {"contents": [{"role": "user", "parts": [{"text": _QUESTION}]}]},
        "ollama": {"model": "demo-1", **_PROMPT},
        "ollama_text": {"model": "demo-1", "prompt": _QUESTION},
        "alias": {"stream": True, "model": "gpt-4o", **_PROMPT},
        "failing": {"stream": True, "model": "demo-fails", **_PROMPT},
        "kept": {**streamed, **_PROMPT},
    }
    return _BANNER.format(
        base=base_url.rstrip("/"),
        admin=admin_url.rstrip("/"),
        handshake=_HANDSHAKE,
        **{name: json.dumps(body) for name, body in bodies.items()},
    )


def tries() -> list[Try]:
    """Returns the streams that the page offers as buttons."""
    streamed = {"stream": True, **_PROMPT}
    chat, failing = ({"model": model, **streamed} for model in ("demo-1", "demo-fails"))
    message = {"model": "demo-1", "max_tokens": 100, **streamed}
    return [
        Try("OpenAI chat", "a completion, token by token", "/v1/chat/completions", json.dumps(chat)),
        Try("Anthropic message", "the same from Anthropic's API", "/v1/messages", json.dumps(message)),
        Try("Ollama chat", "the same in lines of JSON", "/api/chat", json.dumps({"model": "demo-1", **_PROMPT})),
        Try("Clock", "server-sent events until you leave", "/events"),
        Try("JSON lines", "ten lines of JSON", "/ndjson?interval=0.2&count=10"),
        Try("Late first token", "comments keep the line open for 7 seconds", "/slow?delay=7"),
        Try("Mute engine", "both endpoints send a head and no event: 504", "/mute"),
        Try("Failing model", "an engine that fails within its stream", "/v1/chat/completions", json.dumps(failing)),
        Try("Broken stream", "the upstream breaks off, and the client sees it", "/broken"),
        Try("Broken, with an event", "the same, reported in a last event", "/told/broken"),
    ]
