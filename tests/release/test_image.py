"""The image: the steps of the Dockerfile make a proxy that runs, as far as that shows without a container engine."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamproxy import __version__
from tests.doubles.parts import require
from tests.integration.process import Process
from tests.release.conftest import Dist
from tests.unit.project.dockerfile import ROOT, read_dockerfile

FILE = read_dockerfile()
SOURCE = re.compile(r"STREAMPROXY_COMPILE=1 (python -m pip wheel .*) '\.\[([a-z0-9,]+)\]'")
CONFIG = """\
server: {listen: 127.0.0.1:0}
admin: {listen: 127.0.0.1:0}
tracing: {endpoint: http://127.0.0.1:9}
routes:
  - path: /*
    upstream: http://127.0.0.1:9
    auth: {jwt: {secret: 0123456789abcdef0123456789abcdef, algorithms: [HS256]}}
"""


class Image:
    """What the build stage makes, in a directory instead of a layer.

    The release's wheel takes the place of the one that the stage compiles from the same source, which takes minutes.
    """

    def __init__(self, root: Path, wheel: Path) -> None:
        self.root = root
        self.source = root / "src"
        self.prefix = root / "opt"
        self._wheel = wheel

    def build(self) -> None:
        self.source.mkdir()
        steps = [step.text for step in FILE.all("RUN", stage=0)]
        steps[0], found = SOURCE.subn(rf"\1 '{self._wheel}[\2]'", steps[0])
        assert found, "the first step compiles"
        for copy in FILE.all("COPY", stage=0):
            for name in copy.text.split()[:-1]:
                self._copy(name)
        for step in steps:
            command = (
                step.replace("/opt/streamproxy", str(self.prefix))
                .replace("/wheels", str(self.root / "wheels"))
                .replace("/sbom/", f"{self.root}/sbom/")
                .replace("venv /sbom", f"venv {self.root}/sbom")
            )
            done = self.run("sh", "-ec", command, path=Path(sys.executable).parent, cwd=self.source)
            assert done.returncode == 0, done.stdout + done.stderr

    def _copy(self, name: str) -> None:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, self.source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, self.source / name)

    def chmod_readable(self) -> None:
        """Let every user read it, as in an image; the temporary folder of a test is its user's own."""
        for path in (self.prefix, *self.prefix.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o044 | (0o011 if path.is_dir() else 0))

    def environment(self, path: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STREAMPROXY"))}
        return kept | {"PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}

    def run(self, *command: str, path: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command with the image's PATH, and nothing of this checkout on Python's."""
        return subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment(path or self.prefix / "bin"),
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def image(dist: Dist, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image's installation, made by the Dockerfile's own steps."""
    made = Image(tmp_path_factory.mktemp("image"), dist.compiled)
    made.build()
    return made


def test_the_entry_point_is_the_installed_command(image: Image) -> None:
    (command,) = FILE.one("ENTRYPOINT").exec_form()
    assert (image.prefix / "bin" / command).exists()
    expected = f"streamproxy {__version__} (compiled)\n"
    assert image.run(command, "--version").stdout == expected
    assert image.run("python", "-m", "streamproxy", "--version").stdout == expected


def test_the_image_holds_its_own_code_and_both_engines_but_no_installer(image: Image) -> None:
    code = (
        "import streamproxy, uvicorn, hypercorn, importlib.util as i; print(streamproxy.__file__, i.find_spec('pip'))"
    )
    where, installer = image.run("python", "-c", code).stdout.split()
    assert Path(where).is_relative_to(image.prefix)
    assert installer == "None"


def test_the_image_has_every_extra_that_a_running_proxy_can_use(image: Image) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"test", "bench", "docs", "fuzz", "release"}
    installed = {found for step in FILE.all("RUN", stage=0) for found in re.findall(r"\[([a-z0-9,]+)\]'", step.text)}
    assert [set(one.split(",")) for one in installed] == [extras]
    used = image.run("python", "-c", "import hypercorn, jwt, opentelemetry.sdk, rich")
    assert used.returncode == 0, used.stderr


@pytest.fixture
def running(image: Image) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The image's command as the image runs it, and the port of its admin listener."""
    file = image.root / "streamproxy.yaml"
    file.write_text(CONFIG)
    command = FILE.one("ENTRYPOINT").exec_form() + FILE.one("CMD").exec_form()
    assert command[-1] == "/etc/streamproxy/streamproxy.yaml"
    process = subprocess.Popen(
        [str(image.prefix / "bin" / command[0]), *command[1:-1], str(file)],
        env=image.environment(image.prefix / "bin"),
        cwd=image.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = iter(process.stdout)
        admin = next((line for line in lines if line.startswith("admin on ")), "")
        assert admin, "the program ended before it listened"
        yield process, admin.rpartition(":")[2].strip().rstrip("/")
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_image_is_healthy_while_it_runs_and_not_after(
    image: Image, running: tuple[subprocess.Popen[str], str]
) -> None:
    process, port = running
    (command, *arguments) = FILE.one("HEALTHCHECK").exec_form()
    assert (command, arguments) == ("streamproxy", ["health"])
    check = (command, *arguments, "--admin", f"127.0.0.1:{port}")
    assert image.run(*check).stdout == "ok\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0
    assert image.run(*check).returncode == 1


def test_the_image_says_what_it_is_made_of(image: Image) -> None:
    bill = json.loads((image.prefix / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    names = {component["name"].lower() for component in bill["components"]}
    assert {"uvicorn", "uvloop", "hypercorn", "redis"} <= names
    assert not {"pip", "mypy", "cyclonedx-bom"} & names


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_the_image_runs_without_rights_on_a_root_that_is_read_only(image: Image) -> None:
    """In a mount namespace of its own, as the image's user, and with no shell in between."""
    user, _, group = FILE.one("USER").text.partition(":")
    file = image.root / "readonly.yaml"
    file.write_text(CONFIG)
    for folder in (image.root, *image.root.parents):
        folder.chmod(folder.stat().st_mode | 0o055)
    image.chmod_readable()
    drop = [require("setpriv"), f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    program = shlex.join([*drop, str(image.prefix / "bin/streamproxy"), "run", "-c", str(file)])
    script = f"mount --bind / / && mount -o remount,ro,bind / && ! touch / 2>/dev/null && exec {program}"
    with Process([require("unshare"), "--mount", "sh", "-c", script], env={"PYTHONDONTWRITEBYTECODE": "1"}) as process:
        line = asyncio.run(process.line(r"^admin on http://127.0.0.1:(\d+)"))
        assert image.run("streamproxy", "health", "--ready", "--admin", f"127.0.0.1:{line[1]}").returncode == 0
        assert asyncio.run(process.stop()) == 0, process.output
