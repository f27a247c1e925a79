"""``python -m benchmarks.cases``: runs the cases with each proxy, and prints the table of ``docs/comparison.md``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator, Sequence

from benchmarks.__main__ import OUT
from benchmarks.cases.checks import CASES, Case, Running
from benchmarks.cases.setups import SETUPS, Setup, Site
from benchmarks.cases.upstream import Upstream
from benchmarks.programs import BenchError, free_port, running, wait_ready
from benchmarks.report_tables import table

_FIRST = 30.0  # seconds that a proxy may take for its first request


@contextlib.asynccontextmanager
async def started(setup: Setup, streaming: bool) -> AsyncIterator[Running]:
    """A proxy with an upstream of its own. Raises BenchError if it does not start."""
    directory = OUT / "cases" / f"{setup.name}-{'streaming' if streaming else 'default'}"
    directory.mkdir(parents=True, exist_ok=True)
    async with Upstream() as upstream:
        site = Site(free_port(), upstream.port, free_port(), free_port(), directory, streaming)
        launch = setup.launch(site)
        stack = contextlib.ExitStack()
        try:
            if launch.beside:
                stack.enter_context(running(launch.beside, cores=set(), log=directory / "beside.log"))
            log = directory / "output.log"
            began = time.monotonic()
            child = stack.enter_context(running(launch.command, cores=set(), env=launch.env, log=log))
            await asyncio.to_thread(wait_ready, site.listen, setup.ready, child)
            proxy = Running(setup, site, upstream, child.pid, time.monotonic() - began)
            await proxy.get("paced", _FIRST)  # a program may still load parts of itself then
            yield proxy
        finally:
            await asyncio.to_thread(stack.close)


async def cells(setup: Setup, cases: Sequence[Case]) -> dict[str, str]:
    """All cases with one proxy: those of one configuration at once, and some with one of their own."""
    found: dict[str, str] = {}

    async def run(case: Case, proxy: Running) -> None:
        try:
            found[case.name] = await case.check(proxy)
        except OSError as fault:
            found[case.name] = f"fails: {fault}"

    async def group(streaming: bool, chosen: Sequence[Case]) -> None:
        if not chosen:
            return
        try:
            async with started(setup, streaming) as proxy:
                await asyncio.gather(*(run(case, proxy) for case in chosen))
        except BenchError as fault:
            print(f"{setup.name}: {fault}", file=sys.stderr)

    groups = [
        (streaming, [c for c in cases if c.streaming is streaming and not c.alone]) for streaming in (True, False)
    ]
    groups += [(case.streaming, [case]) for case in cases if case.alone]
    for streaming, chosen in groups:
        await group(streaming, chosen)
    return found


async def compare(setups: Sequence[Setup], cases: Sequence[Case]) -> str:
    """The table: a row a case, a column a proxy."""
    columns = await asyncio.gather(*(cells(setup, cases) for setup in setups))
    head = ["", "case", *(f"{setup.label} {setup.version()}" for setup in setups)]
    rows = [
        [case.what, f"`{case.name}`", *(column.get(case.name, "not measured") for column in columns)] for case in cases
    ]
    return table(head, rows).replace("--:", "---")


def main() -> int:
    """Run the cases; the exit status is 1 if no proxy is installed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cases", description=__doc__.partition(": ")[2])
    parser.add_argument("--peers", default=",".join(SETUPS), help="comma-separated; default: all that are installed")
    parser.add_argument("--cases", default=",".join(case.name for case in CASES), help="comma-separated; default: all")
    options = parser.parse_args()
    setups = [SETUPS[name] for name in options.peers.split(",") if SETUPS[name].version() is not None]
    cases = [case for case in CASES if case.name in options.cases.split(",")]
    if not setups:
        print("none of these is installed", file=sys.stderr)
        return 1
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of writes to proxies that have left
    print(asyncio.run(compare(setups, cases)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
