"""What the service manager is told."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from streamproxy.process.notify import READY, tell


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_hears_of_it(tmp_path: Path, abstract: bool) -> None:
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(5)
        tell({"NOTIFY_SOCKET": f"@{name}" if abstract else name}, READY)
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_one_nobody_is_told(environ: dict[str, str]) -> None:
    tell(environ, READY)


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    tell({"NOTIFY_SOCKET": str(tmp_path / "none")}, READY)
