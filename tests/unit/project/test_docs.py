"""The documentation is true, as far as a program can tell: configurations load, names exist, tables are complete."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import streamproxy
from docs.generate import FILE, METRICS, SCHEMA, metrics, published, reference
from fuzz.targets import PARTS
from streamproxy.cli import cli
from streamproxy.config import Config, parse_config
from streamproxy.config.schema import PUBLISHED
from streamproxy.errors import StreamproxyError
from streamproxy.observe.access_log import FIELDS
from streamproxy.observe.families import GENAI_FAMILIES
from streamproxy.observe.metrics import FAMILIES, Counts, Distributions
from tests.doubles.certificates import Certificate
from tests.unit.config.test_examples import MODELINE, all_keys
from tests.unit.project.dockerfile import ROOT
from tests.unit.project.markdown import DOCS, Block, anchors, blocks, links, pages, prose, table

ENVIRON = {
    "OPENAI_API_KEY": "sk-test",
    "SEARCH_TOKEN": "search",
    "SUPPORT_TOKEN": "support",
    "EVENTS_TOKEN": "events",
    "ADMIN_TOKEN": "admin",
    "APP_TOKEN": "app",
    "WEBUI_TOKEN": "webui",
    "LIBRECHAT_TOKEN": "librechat",
    "ANTHROPIC_API_KEY": "sk-ant-test",
    "AZURE_OPENAI_API_KEY": "azure",
    "AWS_BEARER_TOKEN_BEDROCK": "bedrock",
    "GEMINI_API_KEY": "gemini",
    "JWT_SECRET": "a secret that is long enough for HS256",
}
MORE_PAGES = ("deploy/README.md", "CONTRIBUTING.md", "SECURITY.md")


@pytest.fixture
def environ(certificate: Certificate) -> dict[str, str]:
    """The variables that the pages' configurations name."""
    return ENVIRON | {"TLS_CERT": str(certificate.cert), "TLS_KEY": str(certificate.key)}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_configuration_loads(block: Block, environ: dict[str, str]) -> None:
    assert parse_config(block.text, name=str(block), environ=environ).routes


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_every_configuration_names_the_published_schema(block: Block) -> None:
    assert block.text.splitlines()[0] == MODELINE + PUBLISHED


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles_and_imports_what_there_is(block: Block) -> None:
    compile(block.text, str(block), "exec")
    for names in re.findall(r"^from streamproxy import (.+)$", block.text, re.MULTILINE):
        assert all(hasattr(streamproxy, name) for name in names.split(", "))


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_commands_of_the_program_exist_with_their_options(block: Block) -> None:
    for line in block.text.replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] != ["streamproxy"]:
            continue
        command = cli.commands[words[1]]
        options = {
            name for parameter in command.params if isinstance(parameter, click.Option) for name in parameter.opts
        }
        assert {word for word in words[2:] if word.startswith("-")} <= options


@pytest.mark.parametrize("page", [*pages(), *(ROOT / name for name in MORE_PAGES)], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_has_every_page() -> None:
    assert {link for link in links(DOCS / "README.md") if link.endswith(".md")} == {
        page.relative_to(DOCS).as_posix() for page in pages() if page.name != "README.md"
    }
    assert "docs/" in (ROOT / "README.md").read_text()


def test_every_metric_has_its_row_and_its_question() -> None:
    kinds = {Counts: "counter", Distributions: "histogram"}
    expected = {
        f"`streamproxy_{family.name}{'_total' if isinstance(family, Counts) else ''}`": (
            kinds.get(type(family), "gauge"),
            ", ".join(family.labels),
        )
        for family in FAMILIES
    }
    expected |= {f"`{family.name}`": ("histogram", ", ".join(family.labels)) for family in GENAI_FAMILIES}
    expected["`streamproxy_build_info`"] = ("gauge", "version, build (compiled, pure), python, engine")
    rows = table(METRICS, "metric")
    assert {name: (kind, labels) for name, kind, labels, _ in rows} == expected
    assert all("?" in question for _, _, _, question in rows)


def test_every_metric_that_a_page_names_exists() -> None:
    declared = {f"streamproxy_{family.name}" for family in FAMILIES} | {"streamproxy_build_info"}
    for page in pages():
        for name in re.findall(r"\b(streamproxy_[a-z_]+)\b", page.read_text()):
            assert re.sub(r"_(total|bucket|count|sum)$", "", name) in declared, f"{page.name}: {name}"


def test_the_reference_is_what_the_model_says() -> None:
    assert FILE.read_text() == reference(), "the keys have changed: run python -m docs.generate"


def test_the_schema_is_published_as_the_command_prints_it() -> None:
    assert SCHEMA.read_text() == published(), "the keys have changed: run python -m docs.generate"
    assert CliRunner().invoke(cli, ["schema"]).output == published()
    assert json.loads(published())["$id"] == PUBLISHED
    assert PUBLISHED.endswith(SCHEMA.relative_to(ROOT).as_posix())


def test_the_page_of_the_metrics_is_what_the_table_says() -> None:
    assert METRICS.read_text() == metrics(), "the metrics have changed: run python -m docs.generate"


def test_the_reference_has_every_key_with_what_it_is() -> None:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (.*) \| (.*) \| (.*) \|$", FILE.read_text(), re.MULTILINE)
    assert all(kind and what for _, kind, _, what in rows)
    documented = {name for name, *_ in rows}
    assert {key.rpartition(".")[2] for key in all_keys(Config)} == documented


def test_every_key_that_a_page_names_exists() -> None:
    keys = {key.replace(".*", "") for key in all_keys(Config)}
    first = {key.partition(".")[0] for key in keys}
    for page in pages():
        for name in re.findall(r"`([a-z_]+(?:\.[a-z_*]+)+)`", prose(page)):
            if name.partition(".")[0] in first:
                assert name.replace(".*", "") in keys, f"{page.name}: {name}"


def test_every_error_that_troubleshooting_names_exists() -> None:
    def tree(kind: type[StreamproxyError]) -> set[type[StreamproxyError]]:
        return {kind}.union(*(tree(child) for child in kind.__subclasses__()))

    errors = {getattr(kind, "error", "") for kind in tree(StreamproxyError)}
    named = re.findall(
        r"`([a-z]+(?:_[a-z]+)*_(?:error|timeout|refused|incomplete|reached|denied|found|detected|unavailable))`",
        prose(DOCS / "troubleshooting.md"),
    )
    known = errors | set(FIELDS) | {key.rpartition(".")[2] for key in all_keys(Config)}
    assert len(named) > 10
    assert {name for name in named if name not in known} == set()


def test_pages_are_short() -> None:
    for page in pages():
        if page != FILE:
            assert len(page.read_text().splitlines()) < 130, page.name


def test_the_limits_in_front_name_their_source() -> None:
    rows = table(DOCS / "in-front.md", "in front")
    assert len(rows) > 8
    assert all("](https://" in row[0] for row in rows)


def test_every_part_that_is_fuzzed_has_its_row() -> None:
    assert [row[0].partition(" ")[0] for row in table(DOCS / "reliability.md", "part")] == list(PARTS)


def test_the_tests_that_show_a_promise_exist() -> None:
    """A name that ends in … is the beginning of one test of the file before it in its row."""
    functions = 0
    for page in (DOCS / "reliability.md", ROOT / "SECURITY.md"):
        for line in page.read_text().splitlines():
            file, folder = Path(), ROOT / "tests/faults"
            for path, name in re.findall(r"`((?:tests/\w+/)?test_[\w*]+\.py|tests/\w+)`|`(test_\w+)…`", line):
                if name:
                    functions += 1
                    found = re.findall(rf"^(?:async )?def ({name}\w*)", file.read_text(), re.MULTILINE)
                    assert len(found) == 1, f"{page.name}: {name} of {file.name} is {found}"
                else:
                    file = ROOT / path if "/" in path else folder / path
                    folder = file.parent
                    assert list(folder.glob(file.name)), f"{page.name}: {path}"
    assert functions > 15
