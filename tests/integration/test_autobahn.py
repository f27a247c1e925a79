"""Autobahn's cases, run by kosoku: a WebSocket server has the same verdicts through the proxy as without it.

The server is the ``websockets`` library. Sections 1 to 7 and 10 are run whole: framing, pings, reserved bits, opcodes,
fragments, UTF-8, closing. Of sections 9, 12 and 13 (large messages and compression) a few cases are run, since the
whole sections last for minutes. Some cases are races: the server may or may not send its echo before it closes. Where
a verdict differs, the server alone is asked again, until it has had the verdict that it had through the proxy, and so
is the proxy, until it has had the server's. On a busy machine it never has in those cases where a wrong frame follows
right ones at once: the connection has failed before their echoes have come all the way.

The relay of messages is compared with an echo under the same ASGI server.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen

from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import configuration, write_configuration

SECTIONS = ("1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*")
LARGE = ("9.1.1", "9.1.2", "9.1.3", "9.2.*", "12.1.1", "12.2.1", "13.1.1", "13.3.1")
CASES = 260
LATE = "FAILED BY CLIENT"  # kosoku's end gave up waiting for the other's: on a machine that stood still, once
AGAIN = 5  # times that a case is repeated whose verdicts differ
MOST_RACES = 5  # cases that may still differ then, beside those where a wrong frame follows right ones at once
FOLLOWED = {"3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5", "5.15"}
STRICTEST = ("OK", "OK")
KOSOKU = Path(sys.executable).with_name("kosoku")

Verdicts = dict[str, tuple[str, str]]  # of the messages and of the close, by case


@asynccontextmanager
async def server() -> AsyncIterator[str]:
    """Runs a server that echoes messages; yields its URL."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    quiet = logging.getLogger("tests.autobahn")
    quiet.setLevel(logging.CRITICAL)  # nearly every case breaks the protocol
    async with listen(echo, "127.0.0.1", 0, max_size=None, ping_interval=None, logger=quiet) as running:
        yield f"http://127.0.0.1:{next(iter(running.sockets)).getsockname()[1]}"


async def verdicts(url: str, directory: Path, cases: Iterable[str]) -> Verdicts:
    """Runs the cases against a server. A program of its own: the library changes the interpreter that imports it."""
    address = url.removeprefix("http://")
    include = [argument for case in cases for argument in ("-i", case)]
    command = [str(KOSOKU), *include, "-p", "8", "-o", str(directory), address]
    program = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        async with asyncio.timeout(120):
            output, _ = await program.communicate()
    finally:
        if program.returncode is None:
            program.kill()
            await program.wait()
    index = directory / "index.json"
    assert index.exists(), output.decode()
    (found,) = json.loads(index.read_text()).values()
    return {case: (verdict["behavior"], verdict["behaviorClose"]) for case, verdict in found.items()}


async def assert_same(alone_url: str, through_url: str, cases: Sequence[str], number: int, directory: Path) -> None:
    """Fails unless a server has the same verdicts at both URLs, of so many cases."""
    alone = await verdicts(alone_url, directory / "alone", cases)
    through = await verdicts(through_url, directory / "through", cases)
    assert len(alone) == number
    assert through.keys() == alone.keys()
    late = [case for case in through if alone[case] != through[case] and through[case][1] == LATE]
    if late:
        through |= await verdicts(through_url, directory / "late", late)
    # Whether a frame that is right is echoed before the one that is wrong can depend on how they arrive: the strictest
    # verdict is never the proxy's fault.
    differing = {case for case in alone if through[case] not in (alone[case], STRICTEST)}
    seen = {case: {alone[case]} for case in differing}
    lasting = set(differing)
    for turn in range(AGAIN):
        missing = [case for case in differing if through[case] not in seen[case]]
        if missing:
            for case, verdict in (await verdicts(alone_url, directory / f"alone-{turn}", missing)).items():
                seen[case].add(verdict)
        if lasting:
            again = await verdicts(through_url, directory / f"through-{turn}", sorted(lasting))
            lasting = {case for case in lasting if again[case] not in (alone[case], STRICTEST)}
    unknown = {case: (through[case], seen[case]) for case in differing if through[case] not in seen[case]}
    assert not unknown, unknown
    assert len(lasting - FOLLOWED) <= MOST_RACES, lasting


async def test_a_server_has_the_same_verdicts_through_the_proxy(run_proxy: RunProxy, tmp_path: Path) -> None:
    async with server() as url:
        proxy = await run_proxy(configuration(url))
        await assert_same(url, proxy.url, SECTIONS + LARGE, CASES, tmp_path)


async def test_another_server_has_the_verdicts_of_its_own_echo_through_the_relay_of_messages(tmp_path: Path) -> None:
    """There the server reads the client's frames, so that its own are what the proxy must not spoil."""
    uvicorn = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "0"]
    async with server() as url:
        file = {"STREAMPROXY_CONFIG": str(write_configuration(tmp_path, configuration(url, admin={"listen": "off"})))}
        with (
            Process([*uvicorn, "tests.doubles.asgi_echo:app"]) as echo,
            Process([*uvicorn, "streamproxy.asgi:app"], env=file) as proxy,
        ):
            alone, through = [(await process.line(r"running on (http://\S+)"))[1] for process in (echo, proxy)]
            await assert_same(alone, through, SECTIONS + LARGE, CASES, tmp_path)
