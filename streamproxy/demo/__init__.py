"""The demo: an embedded upstream that behaves like an LLM server, and the configuration of the proxy before it.

Nothing here needs a file, a key or the network::

    upstream_app    the upstream, a plain ASGI application for any server on a loopback port
    demo_config     the proxy's configuration for it, in the format of any other configuration file
    banner          commands to try, for the terminal
    tries           requests to try, for the page

The upstream speaks the APIs of OpenAI (completions and Responses), Anthropic, Gemini and Ollama well enough for their
own SDKs, with a model that fails inside its stream, says how much it has to do as vLLM does, and has one endpoint for
each way in which a stream can be long, late, mute or broken. Its answers depend on the request alone (and, for
the clock, on the time), so that what is measured through the proxy can be compared with what went in.
"""

from streamproxy.demo.guide import banner, demo_config, tries
from streamproxy.demo.upstream import DemoUpstream, upstream_app

__all__ = ["DemoUpstream", "banner", "demo_config", "tries", "upstream_app"]
