"""How sockets go from one process to another, and to whom they do not."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamproxy.config import Address
from streamproxy.process import handover
from streamproxy.process.drain import Stop
from streamproxy.process.handover import Handed, Listening, TakeoverError, decode, give, meet, place_of, take
from streamproxy.process.succession import Succession
from streamproxy.server.sockets import Listener, bind, bind_several, close, widen
from tests.doubles.connection import guarded
from tests.unit.admin.proxy import SeenProxy

NOBODY = 65534


@pytest.fixture
def place() -> str:
    return place_of(uuid.uuid4().hex)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[list[socket.socket]]:
    listeners = [bind(Address(host="127.0.0.1", port=0)), bind(Address(path=str(tmp_path / "a.sock")))]
    yield listeners
    for listener in listeners:
        close(listener)


def closed(handed: Handed) -> None:
    for one in (*handed.main, *handed.admin, handed.meeting, handed.line):
        one.close()


def test_the_successor_gets_the_same_sockets_and_the_files_that_were_owned(
    place: str, opened: list[socket.socket]
) -> None:
    meeting = meet(place)

    def serve() -> None:
        line, _ = meeting.accept()
        with line:
            line.settimeout(handover.PATIENCE)
            assert decode(line.recv(100)) == {"takeover": 1}
            give(line, Listening(opened[:1], opened[1:], meeting), [opened[1]])

    meeting.setblocking(True)
    thread = threading.Thread(target=serve)
    thread.start()
    handed = take(place)
    thread.join()
    assert handed is not None
    assert handed.pid == os.getpid()
    assert [os.fstat(one.fileno()).st_ino for one in (*handed.main, *handed.admin, handed.meeting)] == [
        os.fstat(one.fileno()).st_ino for one in (*opened, meeting)
    ]
    assert handed.to_own == handed.admin
    assert not any(one.owned for one in (*handed.main, *handed.admin))
    closed(handed)
    meeting.close()


def test_nobody_at_the_place_is_no_error(place: str) -> None:
    assert take(place) is None


def test_a_process_that_does_not_answer_is_not_waited_for(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "PATIENCE", 0.05)
    with meet(place), pytest.raises(TakeoverError, match="timed out"):
        take(place)


@pytest.mark.parametrize(
    "said", [b"", b"{}\n", b"[1]\n", b'{"pid":1}\n', b'{"socket":"main","owned":true}\n{"pid":1}\n']
)
def test_what_makes_no_sense_is_refused(place: str, said: bytes) -> None:
    meeting = meet(place)
    meeting.setblocking(True)

    def answer() -> None:
        line, _ = meeting.accept()
        with line:
            line.recv(100)
            line.sendall(said)

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(TakeoverError):
        take(place)
    thread.join()
    meeting.close()


def test_there_is_one_process_at_a_place(place: str) -> None:
    with meet(place), pytest.raises(OSError, match="in use"):
        meet(place)


# The interpreter may be where only its owner can read it, so the user changes when it runs.
CALLER = f"""
import os, socket, sys
os.setuid({NOBODY})
line = socket.socket(socket.AF_UNIX)
line.connect(chr(0) + sys.argv[1])
try:
    line.sendall(b'{"takeover":1}')
    print(socket.recv_fds(line, 100, 10)[:2])
except OSError as error:
    print("refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
async def test_another_user_gets_nothing(place: str, opened: list[socket.socket]) -> None:
    succession, stop = Succession(place), Stop()
    await succession.offer(stop, SeenProxy(), lambda: (opened, []))
    async with guarded("the caller to end"):
        command = [sys.executable, "-c", CALLER, place[1:]]
        ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert ended.stdout.strip() in ("refused", "(b'', [])"), ended
    assert not stop.begun.is_set()
    assert isinstance(opened[1], Listener)
    assert opened[1].owned
    await succession.end(stop)


PRETENDER = f"""
import os, socket, sys
os.setuid({NOBODY})
one = socket.socket(socket.AF_UNIX)
one.bind(chr(0) + sys.argv[1])
one.listen()
print("there", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_can_not_pretend_to_be_the_process_that_serves(place: str) -> None:
    command = [sys.executable, "-c", PRETENDER, place[1:]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as pretender:
        assert pretender.stdout is not None
        assert pretender.stdout.readline() == b"there\n"
        with pytest.raises(TakeoverError, match="another user's process pretends"):
            take(place)
        pretender.kill()


def test_one_listener_becomes_as_many_as_there_are_workers() -> None:
    listeners = bind_several(Address(host="127.0.0.1", port=0), 1)
    listeners = widen(listeners, 3)
    assert len({listener.fileno() for listener in listeners}) == 3
    assert len({listener.getsockname() for listener in listeners}) == 1
    assert widen(listeners, 2) == listeners
    for listener in listeners:
        listener.close()
