"""The dialect of each ``protocol`` of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from streamproxy.dialects.anthropic import AnthropicDialect
from streamproxy.dialects.auto import AutoDialect
from streamproxy.dialects.base import Dialect
from streamproxy.dialects.gemini import GeminiDialect
from streamproxy.dialects.http import HTTP
from streamproxy.dialects.ollama import OllamaDialect
from streamproxy.dialects.openai import OpenAIDialect

DIALECTS: Final[Mapping[str, Dialect]] = {
    "http": HTTP,
    "auto": AutoDialect(),
    "openai": OpenAIDialect(),
    "anthropic": AnthropicDialect(),
    "gemini": GeminiDialect(),
    "ollama": OllamaDialect(),
}
