"""The Dockerfile is clean, and says what it should; what its steps build is tested in tests/integration."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from streamproxy import __version__
from tests.doubles.parts import require
from tests.unit.project.dockerfile import ROOT, read_dockerfile

FILE = read_dockerfile()


def hadolint() -> str:
    """The linter's path. Without it the test fails in CI, and is skipped elsewhere."""
    beside = Path(sys.executable).with_name("hadolint")  # where the test extra installs it
    return str(beside) if beside.exists() else require("hadolint")


def test_the_dockerfile_is_clean() -> None:
    result = subprocess.run([hadolint(), str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert result.stdout + result.stderr == ""
    assert result.returncode == 0


def test_the_linter_of_the_dockerfile_finds_a_fault(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM python:latest\nRUN pip install streamproxy\n")
    result = subprocess.run([hadolint(), str(tmp_path / "Dockerfile")], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "DL3007" in result.stdout


def test_every_stage_starts_from_the_same_pinned_python_and_debian() -> None:
    build, final = [stage[0].text.partition(" ")[0] for stage in FILE.stages]
    assert re.fullmatch(r"python:\d+\.\d+-slim-\w+", final)
    assert build == final.replace("-slim", "")  # with a compiler


def test_the_image_runs_as_a_user_without_rights() -> None:
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", FILE.one("USER").text)
    keywords = [instruction.keyword for instruction in FILE.stages[-1]]
    assert "RUN" not in keywords[keywords.index("USER") :]


def test_what_the_image_copies_is_all_that_the_context_has() -> None:
    sources = {name for copy in FILE.all("COPY", stage=0) for name in copy.text.split()[:-1]}
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert rules[1] == "*"
    assert {rule[1:] for rule in rules if rule.startswith("!")} == sources
    assert all((ROOT / name).exists() for name in sources)


def test_the_labels_say_what_the_package_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (text,) = [label.text for label in FILE.all("LABEL")]
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', text))
    assert labels["licenses"] == project["license"]
    assert labels["source"] == project["urls"]["Source"]
    assert labels["documentation"] == project["urls"]["Documentation"]
    assert labels["base.name"] == f"docker.io/library/{FILE.stages[-1][0].text}"
    assert {"title", "description", "version", "revision", "vendor"} <= set(labels)
    assert f"VERSION={__version__}" in [argument.text for argument in FILE.all("ARG")]


def test_the_health_check_is_the_program_itself_and_needs_no_shell() -> None:
    command = FILE.one("HEALTHCHECK")
    assert command.exec_form() == ["streamproxy", "health"]
