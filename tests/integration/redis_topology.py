"""Several redis-servers of a test's own: a primary with a replica and Sentinels, and a cluster."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.integration.redis import RedisServer, redis_server

SERVICE = "mymaster"
PASSWORD = "s@cret/1"  # of the servers
WATCHWORD = "s@cret/2"  # of the Sentinel
_PASSWORD, _WATCHWORD = quote(PASSWORD, safe=""), quote(WATCHWORD, safe="")
SLOTS = 16384


class Sentinels:
    """A primary, a replica, and a Sentinel that makes the replica the primary when that one is gone."""

    def __init__(self, primary: RedisServer, replica: RedisServer, port: int) -> None:
        self.primary = primary
        self.replica = replica
        self.authority = f"127.0.0.1:{port}"
        self._ask = f"redis://:{quote(WATCHWORD, safe='')}@{self.authority}"

    @property
    def url(self) -> str:
        return (
            f"redis+sentinel://:{quote(PASSWORD, safe='')}@127.0.0.1:1,{self.authority}/{SERVICE}/0"
            f"?sentinel_password={quote(WATCHWORD, safe='')}"
        )

    async def command(self, *words: str | int) -> object:
        """One command, to whoever is the primary."""
        async with Redis.from_url(self._ask, protocol=2) as client:
            _, port = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return await (self.primary if int(port) == self.primary.port else self.replica).command(*words)

    async def known(self) -> bool:
        """Whether the Sentinel knows the replica."""
        try:
            async with Redis.from_url(self._ask, protocol=2) as client:
                return len(await client.execute_command("SENTINEL", "REPLICAS", SERVICE)) == 1
        except (RedisError, OSError):
            return False


async def follows(replica: RedisServer) -> bool:
    """Whether a replica has what its primary has."""
    info = await replica.command("INFO", "replication")
    return isinstance(info, dict) and info.get("master_link_status") == "up"


@asynccontextmanager
async def sentinels(folder: Path) -> AsyncIterator[Sentinels]:
    """Run a primary, its replica and a Sentinel, which takes 0.3 s without a sign of life for the primary's end."""
    async with AsyncExitStack() as stack:
        for name in ("primary", "replica", "sentinel"):
            (folder / name).mkdir(parents=True)
        primary = await stack.enter_async_context(redis_server(folder / "primary"))
        replica = await stack.enter_async_context(redis_server(folder / "replica"))
        for server in (primary, replica):
            for name in ("masterauth", "requirepass"):
                await server.command("CONFIG", "SET", name, PASSWORD)
            server.protect(PASSWORD)
        await primary.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
        await replica.command("REPLICAOF", "127.0.0.1", primary.port)
        await until(partial(follows, replica), "a replica that is up to date")
        port = stack.enter_context(reserved_port())
        settings = (
            f"port {port}\nrequirepass {WATCHWORD}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1\n"
            f"sentinel auth-pass {SERVICE} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {SERVICE} 300\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )
        await stack.enter_async_context(sentinel(folder / "sentinel", settings))
        setup = Sentinels(primary, replica, port)
        await until(setup.known, "the Sentinel to know the replica")
        yield setup


@asynccontextmanager
async def sentinel(folder: Path, settings: str) -> AsyncIterator[None]:
    """Run one Sentinel."""
    file = folder / "sentinel.conf"
    file.write_text("bind 127.0.0.1\n" + settings)
    process = await asyncio.create_subprocess_exec(
        require("redis-server"), str(file), "--sentinel", stdout=asyncio.subprocess.DEVNULL, cwd=folder
    )
    try:
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


class Cluster:
    """Nodes with all slots between them; the last one may be a replica of the one before it."""

    def __init__(self, nodes: Sequence[RedisServer], first_slots: Sequence[int]) -> None:
        self.nodes = nodes
        self.first_slots = first_slots  # of each primary

    @property
    def url(self) -> str:
        """Some of its nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:2])

    async def command(self, *words: str | int) -> object:
        """One command on one key, by way of a client that is not ours."""
        async with RedisCluster(host="127.0.0.1", port=self.nodes[0].port, protocol=2) as client:
            return await client.execute_command(*words)


@asynccontextmanager
async def cluster(
    folder: Path, primaries: int, *, replica: bool = False, options: Callable[[], tuple[str, ...]] = tuple
) -> AsyncIterator[Cluster]:
    """Run a cluster; with ``replica`` its last primary has one. ``options`` makes more options of a node."""
    async with AsyncExitStack() as stack:
        nodes = list[RedisServer]()
        first_bus = 0
        for number in range(primaries + replica):
            bus = stack.enter_context(reserved_port())
            first_bus = first_bus or bus
            settings = ("--cluster-enabled", "yes", "--cluster-node-timeout", "600", "--cluster-port", str(bus))
            settings += ("--repl-diskless-sync-delay", "0", *options())
            (folder / str(number)).mkdir(parents=True)
            nodes.append(await stack.enter_async_context(redis_server(folder / str(number), options=settings)))
        bounds = [SLOTS * number // primaries for number in range(primaries + 1)]
        for number, node in enumerate(nodes):
            await node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < primaries:
                await node.command("CLUSTER", "ADDSLOTSRANGE", bounds[number], bounds[number + 1] - 1)
            if number:
                await node.command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, first_bus)

        async def together() -> bool:
            infos = [str(await node.command("CLUSTER", "INFO")) for node in nodes]
            return all("cluster_state:ok" in info and f"known_nodes:{len(nodes)}" in info for info in infos)

        await until(together, "the cluster")
        if replica:
            await nodes[-1].command("CLUSTER", "REPLICATE", await name_of(nodes[-2]))
            await until(partial(follows, nodes[-1]), "a replica that is up to date")
        yield Cluster(nodes, bounds[:-1])


async def name_of(node: RedisServer) -> str:
    """What a node of a cluster is called there."""
    name = await node.command("CLUSTER", "MYID")
    return name.decode() if isinstance(name, bytes) else str(name)
