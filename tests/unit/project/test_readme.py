"""The README is true, as far as a program can tell: its configurations load, its links and its names exist."""

from __future__ import annotations

import re

import pytest

import streamproxy
from streamproxy.app import create_app
from streamproxy.config import parse_config
from tests.unit.project.dockerfile import ROOT

TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("source", blocks("yaml"))
def test_the_configurations_load(source: str) -> None:
    assert parse_config(source, name="README.md").routes


def test_the_first_screen_has_the_two_commands() -> None:
    commands = re.findall(r"^make (\w+)", blocks("sh")[0], re.MULTILINE)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands == ["demo", "test"]
    assert set(commands) <= set(targets)
    assert TEXT.index("make test") < 600


def test_the_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", TEXT)
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


async def test_the_series_that_are_named_exist() -> None:
    app = create_app(parse_config(blocks("yaml")[0], name="README.md"))
    pieces, _ = app.metrics.exposition("")
    declared = b"".join(pieces).decode()
    named = set(re.findall(r"`(streamproxy_\w+)`", TEXT))
    assert len(named) > 5
    assert {name for name in named if f"# HELP {name} " not in declared} == set()
    await app.deployment.aclose()


@pytest.mark.parametrize("source", blocks("python"))
def test_the_python_imports_what_there_is(source: str) -> None:
    names = re.findall(r"^from streamproxy import (.+)$", source, re.MULTILINE)[0].split(", ")
    assert all(callable(getattr(streamproxy, name)) for name in names)
