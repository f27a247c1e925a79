"""Listening sockets: their modes, what they replace, and what they leave behind."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from streamproxy.config import Address
from streamproxy.server.sockets import BindError, bind, close, unlink, url_of


def test_a_unix_socket_is_for_its_owner_and_group(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = bind(Address(path=str(path)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert url_of(listener, "https") == f"https+unix:{path}"
    close(listener)
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_one_in_use_is_not(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "s"))
    stale = bind(address)
    stale.close()
    listener = bind(address)
    with pytest.raises(BindError, match=r"can't listen on .*Address already in use"):
        bind(address)
    close(listener)


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "s"
    file.write_text("precious")
    with pytest.raises(BindError, match="not a socket"):
        bind(Address(path=str(file)))
    assert file.read_text() == "precious"


def test_closing_twice_leaves_the_socket_of_a_successor_alone(tmp_path: Path) -> None:
    address = Address(path=str(tmp_path / "s"))
    first = bind(address)
    unlink(first)
    first.close()
    second = bind(address)
    close(first)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(address.path))
    close(second)


def test_a_port_in_use_is_said_with_its_address() -> None:
    listener = bind(Address(host="127.0.0.1", port=0))
    port = listener.getsockname()[1]
    said = f"can't listen on 127.0.0.1:{port}: Address already in use; another program listens there: stop it, or take"
    with pytest.raises(BindError, match=f"{said} another port"):
        bind(Address(host="127.0.0.1", port=port))
    close(listener)


def test_an_address_that_cannot_be_listened_on_comes_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BindError, match=r"it is no address of this machine; 0\.0\.0\.0 is all of them"):
        bind(Address(host="192.0.2.1", port=0))
    with pytest.raises(BindError, match="the directory of the socket has to exist"):
        bind(Address(path=str(tmp_path / "none" / "s")))
