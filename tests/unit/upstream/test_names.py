"""Names of which every address is an endpoint."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import pytest

from streamproxy.upstream import Endpoint, Upstream
from streamproxy.upstream.names import Name, addresses_of, authority_of
from tests.unit.origins.calls import open_at
from tests.unit.upstream.fakes import client_of, endpoint, new_exchange, settings


class Zone:
    """A name server that says what the test wrote down: addresses, or an error."""

    def __init__(self, *addresses: str) -> None:
        self.answer: Sequence[str] | OSError = addresses
        self.asked: list[tuple[str, int]] = []

    async def look_up(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer


class Service:
    """An upstream of one name."""

    def __init__(self, zone: Zone) -> None:
        self.built: dict[str, Endpoint] = {}
        self.name = Name("svc", 80, itself=endpoint("svc"), build=self._build, look_up=zone.look_up)
        self.upstream = Upstream("u", [], settings(balance="round_robin"), names=[self.name])

    def _build(self, address: str) -> Endpoint:
        self.built[address] = endpoint(address)
        return self.built[address]

    async def refresh(self) -> list[str]:
        await self.name.refresh(self.upstream._replace)
        return self.urls()

    def urls(self) -> list[str]:
        return [one.url.removeprefix("http://") for one in self.upstream.endpoints]


async def test_every_address_is_an_endpoint() -> None:
    zone = Zone("10.0.0.1", "10.0.0.2")
    service = Service(zone)
    assert service.urls() == ["svc"]
    assert await service.refresh() == ["10.0.0.1", "10.0.0.2"]
    assert zone.asked == [("svc", 80)]
    await asyncio.sleep(0)
    assert client_of(service.name.itself).log == ["closed"]


async def test_endpoints_that_are_still_there_are_not_touched() -> None:
    zone = Zone("10.0.0.1", "10.0.0.2")
    service = Service(zone)
    await service.refresh()
    kept = service.built["10.0.0.2"]
    zone.answer = ["10.0.0.3", "10.0.0.2"]
    await service.refresh()
    assert set(service.urls()) == {"10.0.0.2", "10.0.0.3"}
    assert kept in service.upstream.endpoints
    await asyncio.sleep(0)
    assert client_of(service.built["10.0.0.1"]).log == ["closed"]
    assert client_of(kept).log == []


async def test_a_stream_of_an_endpoint_that_left_ends_in_its_own_time() -> None:
    zone = Zone("10.0.0.1")
    service = Service(zone)
    await service.refresh()
    exchange = new_exchange()
    one = service.upstream.pick(exchange, [])
    response = await open_at(service.upstream, exchange)
    zone.answer = ["10.0.0.2"]
    assert await service.refresh() == ["10.0.0.2"]
    await asyncio.sleep(0)
    assert client_of(one).log == ["answered 200"]
    assert service.upstream.pick(exchange, []).url == "http://10.0.0.2"
    await response.aclose(None)
    await asyncio.sleep(0)
    assert client_of(one).log == ["answered 200", "left", "closed"]


@pytest.mark.parametrize("answer", [OSError("no name server"), ()])
async def test_a_look_up_that_finds_nothing_changes_nothing(answer: OSError | tuple[str, ...]) -> None:
    zone = Zone("10.0.0.1")
    service = Service(zone)
    await service.refresh()
    zone.answer = answer
    assert await service.refresh() == ["10.0.0.1"]


async def test_a_name_that_was_never_found_stays_an_endpoint_and_says_why_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    zone = Zone()
    service = Service(zone)
    zone.answer = OSError("no such host")
    assert await service.refresh() == await service.refresh() == ["svc"]
    assert [record.getMessage() for record in caplog.records] == ["svc was not found: no such host"]


async def test_endpoints_that_join_late_start_slowly_and_the_first_do_not() -> None:
    zone = Zone("10.0.0.1")
    service = Service(zone)
    await service.refresh()
    zone.answer = ["10.0.0.1", "10.0.0.2"]
    await service.refresh()
    assert [one.share < 1.0 for one in service.upstream.endpoints] == [False, True]


async def test_a_start_waits_for_the_first_look_up() -> None:
    service = Service(Zone("10.0.0.1", "10.0.0.2"))
    await service.upstream.start()
    assert service.urls() == ["10.0.0.1", "10.0.0.2"]
    await service.upstream.aclose()
    assert all(client_of(one).log == ["closed"] for one in service.built.values())


async def test_the_systems_resolver_gives_each_address_once() -> None:
    assert list(await addresses_of("127.0.0.1", 80)) == ["127.0.0.1"]
    with pytest.raises(socket.gaierror):
        await addresses_of("no-such-host.invalid", 80)


@pytest.mark.parametrize(
    ("address", "authority"), [("10.0.0.1", "10.0.0.1:80"), ("fd00::1", "[fd00::1]:80"), ("host", "host:80")]
)
def test_an_address_stands_in_a_url_as_it_must(address: str, authority: str) -> None:
    assert authority_of(address, 80) == authority
