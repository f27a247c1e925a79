"""Real programs that tests run: found, or missing with a word that says what to install.

In CI (``CI`` set in the environment) a missing part fails the test; elsewhere it skips it.
"""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

# The program, and the Debian package that brings it.
PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "curl": "curl",
    "h2load": "nghttp2-client",
    "node": "nodejs",
    "npm": "npm",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "redis-server": "redis-server",
    "openssl": "openssl",
    "setpriv": "util-linux",
    "unshare": "util-linux",
    "systemd-analyze": "systemd",
    "systemd-socket-activate": "systemd",
}
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin", "/usr/local/sbin")  # not on every user's path


def find(program: str) -> str | None:
    """The path of a program, or None."""
    return shutil.which(program) or shutil.which(program, path=os.pathsep.join(SYSTEM_FOLDERS))


def require(program: str) -> str:
    """The path of a program; without it the test fails in CI and is skipped elsewhere."""
    found = find(program)
    if found is None:
        package = PACKAGES.get(program, program)
        missing(f"{program} is missing: apt-get install {package}, or sh tests/install-parts.sh")
    return found


def missing(what: str) -> NoReturn:
    """Fail the test in CI, and skip it elsewhere, because of a part that is missing."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
