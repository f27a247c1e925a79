"""The demo: an embedded upstream that behaves like an LLM server, and the configuration of the proxy in front of it.

It needs no file, no key and no network::

    upstream_app    the upstream, a plain ASGI application for any server on a loopback port
    demo_config     the proxy's configuration for it, in the format of a configuration file
    banner          commands to try, for the terminal
    tries           requests to try, for the page

The upstream implements the APIs of OpenAI (completions and Responses), Anthropic, Gemini and Ollama well enough for
their SDKs. It has a model that fails inside its stream, reports its load in the format of vLLM, and has endpoints for
long, late, mute and broken streams. Its responses depend only on the request (and for the clock on the time), so that a
response through the proxy can be compared with the original.
"""

from streamproxy.demo.guide import banner, demo_config, tries
from streamproxy.demo.upstream import DemoUpstream, upstream_app

__all__ = ["DemoUpstream", "banner", "demo_config", "tries", "upstream_app"]
