"""The project's own files: each parses, and what it calls exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.project.dockerfile import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_package_is_typed_as_its_classifier_says() -> None:
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (ROOT / "streamproxy/py.typed").is_file()


def test_the_links_of_the_package_lead_to_what_the_repository_has() -> None:
    urls = PROJECT["urls"]
    source = urls["Source"]
    assert {"Documentation", "Source", "Issues", "Changelog"} <= set(urls)
    for url in urls.values():
        assert url.startswith(source)
        path = re.sub(r"^/(tree|blob)/main/", "", url.removeprefix(source))
        assert path in ("", "/issues") or (ROOT / path).exists()


def test_classifiers_name_every_python_that_can_run_it() -> None:
    versions = re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["classifiers"]))
    lowest = int(PROJECT["requires-python"].removeprefix(">=3."))
    assert list(map(int, versions)) == list(range(lowest, lowest + len(versions)))


def test_make_alone_lists_the_targets_that_are_for_people() -> None:
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = [line.partition(":")[0] for line in listed.splitlines()]
    assert {"demo", "test", "check", "matrix", "clean"} <= set(names) <= TARGETS
    assert len(names) == len(set(names))


def test_hooks_are_the_commands_that_make_runs() -> None:
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook["entry"] for hook in repository["hooks"]}
    assert set(hooks) == {"ruff", "ruff-format", "mypy"}
    for entry in hooks.values():
        program = entry.split()[0]
        assert program.startswith(".venv/bin/")
        beside = Path(sys.executable).with_name(Path(program).name)
        assert beside.exists() or shutil.which(Path(program).name)
        assert f"$(BIN)/{' '.join(entry.removeprefix('.venv/bin/').split()[:2]).split(' --')[0]}" in MAKEFILE


@pytest.mark.parametrize("form", [path for path in FORMS if path.stem != "config"], ids=lambda path: path.stem)
def test_an_issue_form_is_one(form: Path) -> None:
    content = load(form)
    assert {"name", "description", "body"} <= set(content)
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    identifiers = [field["id"] for field in fields]
    assert len(set(identifiers)) == len(identifiers)
    for field in fields:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_vulnerabilities_are_sent_elsewhere_than_to_issues() -> None:
    links = {link["name"]: link["url"] for link in load(ROOT / ".github/ISSUE_TEMPLATE/config.yml")["contact_links"]}
    assert links["Vulnerability"].endswith("/security/advisories/new")
    assert f"<{links['Vulnerability']}>" in (ROOT / "SECURITY.md").read_text()
    for url in links.values():
        assert "/blob/main/" not in url or (ROOT / url.partition("/blob/main/")[2]).exists()


def test_ci_runs_the_whole_check_on_the_lowest_python() -> None:
    workflow = load(ROOT / ".github/workflows/ci.yml")
    (job,) = workflow["jobs"].values()
    runs = [step["run"] for step in job["steps"] if "run" in step]
    versions = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert runs == ["bash .ci/run"]
    assert versions == [PROJECT["requires-python"].removeprefix(">=")]
    script = ROOT / ".ci/run"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert set(re.findall(r"^make ([a-z-]+)", script.read_text(), re.MULTILINE)) == {"test"} <= TARGETS


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".pre-commit-config.yaml"])
def test_the_targets_that_are_named_exist(name: str) -> None:
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (ROOT / name).read_text(), re.MULTILINE))
    assert named
    assert named <= TARGETS


def test_the_files_that_contributing_names_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"`((?:streamproxy|tests|docs|config)/[\w./-]+)`", text))
    assert len(named) > 8
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_room_has_its_row() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = {path.name for path in (ROOT / "streamproxy").iterdir() if (path / "__init__.py").exists()} - {"demo"}
    assert {room for room in rooms if f"`{room}/`" not in text} == set()


def test_the_editor_configuration_says_what_ruff_does() -> None:
    lines = (ROOT / ".editorconfig").read_text().partition("[*.py]")[2].split()
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert lines[lines.index("max_line_length") + 2] == str(ruff["line-length"])
