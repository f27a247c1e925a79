"""Fixtures: the files of a release, and an empty virtual environment with its compiled wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.project.dockerfile import ROOT


class Dist(NamedTuple):
    """The files of a release."""

    sdist: Path
    pure: Path
    compiled: Path
    sbom: Path


class Installation(NamedTuple):
    """A virtual environment with nothing but the compiled wheel and what it requires."""

    bin: Path

    def command(self, *arguments: str) -> list[str]:
        return [str(self.bin / "streamproxy"), *arguments]


def clean_environment() -> dict[str, str]:
    """The environment without anything that would lead Python to this checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STREAMPROXY"))}


@pytest.fixture(scope="session")
def dist(request: pytest.FixtureRequest) -> Dist:
    folder = request.config.getoption("--dist")
    if folder is None:
        subprocess.run(["make", "dist", f"VENV={Path(sys.prefix)}"], cwd=ROOT, check=True, env=clean_environment())
        folder = ROOT / "dist"
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}"
    (sdist,), (pure,), (compiled,), (sbom,) = (
        sorted(folder.glob(pattern)) for pattern in ("*.tar.gz", "*-py3-none-any.whl", f"*-{tag}-*.whl", "*.cdx.json")
    )
    assert set(folder.iterdir()) == {sdist, pure, compiled, sbom}
    return Dist(sdist, pure, compiled, sbom)


@pytest.fixture(scope="session")
def installation(dist: Dist, tmp_path_factory: pytest.TempPathFactory) -> Installation:
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--quiet"]
    done = subprocess.run(
        [*pip, str(dist.compiled)], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Installation(folder / "bin")
