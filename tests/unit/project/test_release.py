"""The workflows fit GitHub's schema and are safe, the wheels are the ones that are promised, and versions agree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from streamproxy import __version__
from tests.unit.project.dockerfile import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CHANGELOG = (ROOT / "CHANGELOG.md").read_text()
BIN = Path(sys.executable).parent


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def schema_check(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run(str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, arguments))


def workflow(name: str) -> Any:
    return yaml.safe_load((ROOT / f".github/workflows/{name}.yml").read_text())


def test_each_workflow_fits_the_schema_which_refuses_a_misspelt_key(tmp_path: Path) -> None:
    """One run for all, since loading the schema takes seconds."""
    broken = tmp_path / "broken.yml"
    broken.write_text("on: push\njobs: {one: {runs-on: ubuntu-latest, stepps: []}}\n")
    done = schema_check("--verbose", "--output-format", "json", *WORKFLOWS, broken)
    said = json.loads(done.stdout)
    assert said["status"] == "fail"
    assert said["successes"] == [str(file) for file in WORKFLOWS], done.stdout
    assert {error["filename"] for error in said["errors"]} == {str(broken)}, done.stdout


def test_workflows_have_no_known_weakness() -> None:
    done = run(str(BIN / "zizmor"), "--offline", "--no-progress", *map(str, WORKFLOWS))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_the_commands_of_a_workflow_are_shell_and_make_targets(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for job in yaml.safe_load(file.read_text())["jobs"].values():
        for step in job["steps"]:
            command = re.sub(r"\$\{\{.*?\}\}", "x", step.get("run", ""))
            assert run("bash", "-n", "-c", command).returncode == 0, command
            assert set(re.findall(r"^make ([a-z-]+)", command)) <= targets


def test_nothing_is_published_before_all_of_it_is_made() -> None:
    jobs = workflow("release")["jobs"]
    assert {"sdist", "wheels"} <= set(jobs["publish"]["needs"])
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert {"sdist", "wheels"} <= set(jobs["image"]["needs"])


def test_every_image_has_its_bill_of_materials_beside_it() -> None:
    """Taken from where the build leaves it, and in the files of the release, which takes every artifact."""
    jobs = workflow("release")["jobs"]
    commands = "\n".join(step.get("run", "") for step in jobs["image"]["steps"])
    (left,) = re.findall(r"--output-file (/opt/\S+)", (ROOT / "Dockerfile").read_text())
    assert f'docker cp "$container:{left}" "image-$ARCH.cdx.json"' in commands
    kept = [step["with"] for step in jobs["image"]["steps"] if "upload-artifact" in step.get("uses", "")]
    assert [(one["path"], one["if-no-files-found"]) for one in kept] == [("image-*.cdx.json", "error")]
    taken = next(step["with"] for step in jobs["release"]["steps"] if "download-artifact" in step.get("uses", ""))
    assert "pattern" not in taken
    assert "manifest" in jobs["release"]["needs"]


@pytest.mark.parametrize(
    ("platform", "architecture", "libraries"),
    [
        ("linux", "x86_64", ["manylinux_x86_64", "musllinux_x86_64"]),
        ("linux", "aarch64", ["manylinux_aarch64", "musllinux_aarch64"]),
        ("macos", "x86_64", ["macosx_x86_64"]),
        ("macos", "arm64", ["macosx_arm64"]),
    ],
)
def test_there_is_a_wheel_for_every_python_that_is_promised(
    platform: str, architecture: str, libraries: list[str]
) -> None:
    arguments = ["--platform", platform, "--archs", architecture, "--print-build-identifiers"]
    done = run(sys.executable, "-m", "cibuildwheel", *arguments)
    assert done.returncode == 0, done.stderr
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    expected = {f"cp{version.replace('.', '')}-{library}" for version in versions for library in libraries}
    assert set(done.stdout.split()) == expected


def test_the_version_is_the_newest_of_the_changelog() -> None:
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", CHANGELOG, re.MULTILINE)
    assert headings[0][0] in ("Unreleased", __version__)
    released = [(name, date) for name, date in headings if name != "Unreleased"]
    assert released[0][0] == __version__
    assert all(date for _, date in released)


def test_every_place_that_names_the_version_names_this_one() -> None:
    assert json.loads((ROOT / "clients/js/package.json").read_text())["version"] == __version__
    assert tomllib.loads((ROOT / "clients/python/pyproject.toml").read_text())["project"]["version"] == __version__
    assert f"streamproxy {__version__} (" in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    assert f"Version {__version__.rpartition('.')[0]} " in (ROOT / "README.md").read_text()


def test_every_upgrade_note_names_a_key_and_both_values() -> None:
    table = CHANGELOG.partition("### Upgrade")[2].partition("###")[0]
    rows = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) >= 5
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)
