"""What happens when a real part is missing: a failure in CI, a skip elsewhere, and never a half-made installation."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.doubles.parts import PACKAGES, find, require

SCRIPT = Path(__file__).parents[2] / "install-parts.sh"


def test_a_part_that_is_there_is_found() -> None:
    assert require("sh") == find("sh") == shutil.which("sh")


@pytest.mark.parametrize("value", ["true", "1"])
def test_a_missing_part_fails_in_ci(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CI", value)
    with pytest.raises(pytest.fail.Exception, match="no-such-part is missing"):
        require("no-such-part")


@pytest.mark.parametrize("value", ["", "false", "0"])
def test_a_missing_part_skips_elsewhere(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CI", value)
    with pytest.raises(pytest.skip.Exception, match="no-such-part is missing"):
        require("no-such-part")


def install(folder: Path, programs: list[str], ci: str) -> subprocess.CompletedProcess[str]:
    """Run the script where only these programs exist, apt-get not among them."""
    for program in ["sh", "id", *programs]:
        (folder / program).symlink_to(shutil.which("true") or "/bin/true")
    shell = shutil.which("sh") or "/bin/sh"
    environment = {"PATH": str(folder), "CI": ci}
    return subprocess.run([shell, SCRIPT], env=environment, capture_output=True, text=True, check=False, timeout=20)


def test_the_script_is_silent_when_every_part_is_there(tmp_path: Path) -> None:
    done = install(tmp_path, list(PACKAGES), ci="true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("", 0), ("false", 0)])
def test_without_apt_the_script_names_what_is_missing_and_fails_only_in_ci(
    tmp_path: Path, ci: str, status: int
) -> None:
    done = install(tmp_path, [program for program in PACKAGES if program != "chromedriver"], ci)
    assert done.returncode == status
    assert done.stderr.endswith("chromium-driver \n")
