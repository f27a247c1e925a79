"""The page of the admin listener in Chromium, over a real proxy."""

from __future__ import annotations

import signal

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.connection import guarded
from tests.doubles.upstream import Conn, stream_head
from tests.integration.browser import REBOUND, Browser
from tests.integration.conftest import RunProxy
from tests.integration.proxy import configuration

EVIL = "/<img/src=x/onerror=document.title='owned'>"
TAB, ENTER, ESCAPE = "\ue004", "\ue007", "\ue00c"  # WebDriver's code points

# Resolves when the expression is true; looked at whenever the page changes.
UNTIL = """new Promise(resolve => {
    const look = () => { if (CONDITION) { observer.disconnect(); resolve(true); } };
    const observer = new MutationObserver(look);
    observer.observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
    look();
})"""


async def for_ever(conn: Conn) -> None:
    """Send an event, and more of them when the test says so."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()


async def shows(page: Browser, condition: str) -> None:
    async with guarded(f"{condition} on the page"):
        assert await page.evaluate(UNTIL.replace("CONDITION", condition))


async def rows(page: Browser, table: str) -> list[list[str]]:
    """The texts of a table's cells; of a cell with two lines, both."""
    found: list[list[str]] = await page.evaluate(
        f"Array.from(document.querySelectorAll('#{table} tbody tr'), row => Array.from(row.cells, cell =>"
        " Array.from(cell.children.length > 1 ? cell.children : [cell], part => part.textContent).join('|')))"
    )
    return found


async def test_the_page_shows_a_stream_and_stops_it_when_that_is_confirmed(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(for_ever)
    proxy = await run_proxy(configuration([{"name": "chat", "path": "/*", "upstream": upstream.url}]))
    client = await dial(proxy.url)
    await client.request("/events?token=SECRET", headers=[("X-Request-Id", "the/one")])
    await client.read_head()
    await client.read_body_until(b"\n\n")

    await chromium.open(f"{proxy.admin}/")
    await shows(chromium, "document.querySelector('#stream-table tbody tr')")
    (row,) = await rows(chromium, "stream-table")
    assert (row[0], row[3], row[4], row[8]) == ("chat", "127.0.0.1|", "body|", "1")
    assert row[1] == f"GET /events?token=***|the/one → {upstream.url}"
    (endpoint,) = await rows(chromium, "endpoint-table")
    assert endpoint[1:] == [upstream.url, "up", "1", "1 active, 0 idle", "\u2013"]

    # By the keyboard alone: the button, then out of the question, then into it again and through it.
    await chromium.evaluate("(document.querySelector('#stream-table td button').focus(), true)")
    await chromium.press(ENTER)
    assert await chromium.evaluate("document.querySelector('dialog').open") is True
    await chromium.press(ENTER)  # the focus is on letting it run
    assert await chromium.evaluate("document.querySelector('dialog').open") is False
    assert len(await proxy.streams()) == 1
    await chromium.press(ENTER, TAB, ENTER)
    await shows(chromium, "document.querySelector('#said').textContent.includes('was stopped')")
    assert not (await client.read_rest()).complete
    await shows(chromium, "document.querySelector('#ended-table tbody tr')")
    (ended,) = await rows(chromium, "ended-table")
    assert ended[4] == "cancelled|connection terminated, in phase body"
    await shows(chromium, "!document.querySelector('#stream-table tbody tr')")
    assert await chromium.console() == []


async def test_the_focus_stays_in_the_table_when_the_stream_that_had_it_ends(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(for_ever)
    proxy = await run_proxy(configuration(upstream.url))
    for number in range(3):
        client = await dial(proxy.url)
        await client.request("/", headers=[("X-Request-Id", f"id-{number}")])
        await client.read_head()
    await chromium.open(f"{proxy.admin}/")
    buttons = "Array.from(document.querySelectorAll('#stream-table td button'))"
    await shows(chromium, f"{buttons}.length === 3")
    await chromium.evaluate(f"({buttons}[1].focus(), true)")

    upstream.connections[1].go.set()
    await shows(chromium, f"{buttons}.length === 2")
    assert await chromium.evaluate("document.activeElement.ariaLabel.endsWith('id-2')")
    upstream.connections[2].go.set()
    await shows(chromium, f"{buttons}.length === 1")
    assert await chromium.evaluate("document.activeElement.ariaLabel.endsWith('id-0')")

    await chromium.press(ENTER)  # the question is open while its stream ends
    upstream.connections[0].go.set()
    await shows(chromium, f"{buttons}.length === 0")
    tell = "() => { document.body.dataset.focus = document.activeElement.className; }"
    await chromium.evaluate(f"(document.querySelector('dialog').addEventListener('close', {tell}), true)")
    await chromium.press(ESCAPE)
    await shows(chromium, "document.body.dataset.focus === 'scroll'")


async def test_a_stream_of_a_model_shows_what_it_has_said_so_far(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect
) -> None:
    chunk = (
        b'data: {"object":"chat.completion.chunk","model":"qwen-3","choices":[{"delta":{"content":"a"}}],'
        b'"usage":{"prompt_tokens":1200,"completion_tokens":7}}\n\n'  # as vLLM's continuous_usage_stats
    )

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(chunk)
        await conn.wait_ended()

    upstream = await serve(script)
    proxy = await run_proxy(configuration([{"path": "/*", "upstream": upstream.url, "protocol": "openai"}]))
    client = await dial(proxy.url)
    await client.request("/v1/chat/completions")
    await client.read_head()
    await chromium.open(f"{proxy.admin}/")
    await shows(chromium, "document.querySelector('#stream-table tbody tr')")
    (row,) = await rows(chromium, "stream-table")
    assert row[2].startswith("qwen-3|first event ")
    assert ", 1,200 in, 7 out, " in row[2]
    assert row[2].endswith(" tokens/s")
    client.reset()
    await shows(chromium, "document.querySelector('#ended-table tbody tr')")
    (ended,) = await rows(chromium, "ended-table")
    assert ended[2].startswith("qwen-3|first event ")


async def test_what_a_client_sends_stays_text_on_the_page(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(for_ever)
    proxy = await run_proxy(configuration(upstream.url))
    client = await dial(proxy.url)
    await client.request(EVIL, headers=[("X-Request-Id", "<b>bold</b>")])
    await client.read_head()
    await chromium.open(f"{proxy.admin}/")
    await shows(chromium, "document.querySelector('#stream-table tbody tr')")
    (row,) = await rows(chromium, "stream-table")
    assert row[1].startswith(f"GET {EVIL}|<b>bold</b> → ")
    assert await chromium.evaluate("document.querySelectorAll('img, b, main script').length") == 0
    assert await chromium.evaluate("document.title") == "streamproxy"
    assert await chromium.console() == []


async def test_the_policy_of_the_page_refuses_markup_and_other_code(run_proxy: RunProxy, chromium: Browser) -> None:
    proxy = await run_proxy(configuration("http://127.0.0.1:9"))
    await chromium.open(f"{proxy.admin}/")
    tried = "(() => { try { document.body.innerHTML = '<p>x</p>'; return 'done'; } catch (e) { return e.name; } })()"
    assert await chromium.evaluate(tried) == "TypeError"
    added = "(() => { const s = document.createElement('style'); s.textContent = 'body{display:none}'; document.head.append(s); return getComputedStyle(document.body).display; })()"  # noqa: E501
    assert await chromium.evaluate(added) == "block"


async def test_streams_are_sorted_and_filtered_by_the_proxy(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(for_ever)
    routes = [{"name": name, "path": f"/{name}/*", "upstream": upstream.url} for name in ("one", "two")]
    proxy = await run_proxy(configuration(routes))
    for path in ("/one/old", "/two/middle", "/one/new"):
        client = await dial(proxy.url)
        await client.request(path)
        await client.read_head()
    await chromium.open(f"{proxy.admin}/")
    await shows(chromium, "document.querySelectorAll('#stream-table tbody tr').length === 3")
    assert [row[1].partition("|")[0] for row in await rows(chromium, "stream-table")] == [
        "GET /one/old",
        "GET /two/middle",
        "GET /one/new",
    ]
    header = "document.querySelector('[data-sort=age]')"
    assert await chromium.evaluate(f"{header}.closest('th').ariaSort") == "descending"
    await chromium.evaluate(f"({header}.click(), true)")
    await shows(chromium, "document.querySelector('#stream-table td').textContent.includes('/one/new')")
    assert await chromium.evaluate(f"{header}.closest('th').ariaSort") == "ascending"
    choose = "(s => { s.value = 'two'; s.dispatchEvent(new Event('change')); return true; })(document.querySelector('#route'))"  # noqa: E501
    await chromium.evaluate(choose)
    await shows(chromium, "document.querySelectorAll('#stream-table tbody tr').length === 1")
    ((route, *_),) = await rows(chromium, "stream-table")
    assert route == "two"


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
async def test_the_page_follows_the_colours_and_the_width_of_its_reader(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect, scheme: str, dark: bool
) -> None:
    upstream = await serve(for_ever)
    proxy = await run_proxy(configuration(upstream.url))
    client = await dial(proxy.url)
    await client.request("/" + "long" * 100)
    await client.read_head()
    await chromium.devtools(
        "Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": scheme}]
    )
    await chromium.devtools(
        "Emulation.setDeviceMetricsOverride", width=360, height=640, deviceScaleFactor=1, mobile=False
    )
    await chromium.open(f"{proxy.admin}/")
    await shows(chromium, "document.querySelector('#stream-table tbody tr')")
    colour = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert (sum(await chromium.evaluate(colour)) < 3 * 128) == dark
    assert await chromium.evaluate("document.documentElement.scrollWidth <= innerWidth") is True
    box = "document.querySelector('#stream-table td button').getBoundingClientRect()"
    assert await chromium.evaluate(f"{box}.left >= 0 && {box}.right <= innerWidth") is True


async def test_the_page_finds_its_way_under_a_prefix(run_proxy: RunProxy, chromium: Browser, serve: Serve) -> None:
    upstream = await serve(for_ever)
    proxy = await run_proxy(configuration(upstream.url, admin={"mount": "/-"}))
    await chromium.open(f"{proxy.url}/-/")
    await shows(chromium, "document.querySelector('#state').dataset.is === 'ready'")
    assert await chromium.console() == []


async def test_a_drain_can_be_watched_to_its_end_and_viewers_do_not_delay_it(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(for_ever)
    proxy = await run_proxy(configuration(upstream.url, server={"drain_timeout": "1h"}))
    client = await dial(proxy.url)
    await client.request("/events")
    await client.read_head()
    await chromium.open(f"{proxy.admin}/")
    await shows(chromium, "document.querySelector('#state').dataset.is === 'ready'")
    proxy.process.signal(signal.SIGTERM)
    await shows(chromium, "document.querySelector('#state-text').textContent === 'not ready: draining'")
    assert (await fetch(f"{proxy.admin}/readyz")).status == 503
    await client.aclose()
    assert await proxy.process.exited() == 0
    assert "Cancel" not in proxy.process.output  # uvicorn's word for requests that it had to break off
    await shows(chromium, "document.querySelector('#state').dataset.is === 'lost'")


async def test_a_page_whose_name_was_rebound_to_the_listener_learns_and_changes_nothing(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(for_ever)
    proxy = await run_proxy(configuration(upstream.url))
    client = await dial(proxy.url)
    await client.request("/", headers=[("X-Request-Id", "one")])
    await client.read_head()

    # For the browser all this is of one origin: what the name led to before is what it leads to now.
    await chromium.open(f"{proxy.admin.replace('127.0.0.1', REBOUND)}/healthz")
    asked = ["GET /", "GET /streams", "GET /streams/live", "GET /config", "DELETE /streams/one", "POST /reload"]
    for one in asked:
        method, path = one.split(" ")
        answer = await chromium.evaluate(
            f"fetch('{path}', {{ method: '{method}' }}).then(async answer => [answer.status, await answer.json()])"
        )
        assert answer[0] == 403, one
        assert REBOUND in answer[1]["detail"]
    assert len(await proxy.streams()) == 1
    assert await proxy.metric('streamproxy_config_reloads_total{result="ok"}') == 0


async def test_the_page_asks_for_the_token_and_keeps_it_for_the_tab(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(for_ever)
    proxy = await run_proxy(configuration(upstream.url, admin={"token": "s3cret"}))
    client = await dial(proxy.url)
    await client.request("/events")
    await client.read_head()
    type_in = "(t => { document.querySelector('#unlock-token').value = t; document.querySelector('#unlock button').click(); return true; })"  # noqa: E501

    await chromium.open(f"{proxy.admin}/")
    await shows(chromium, "document.querySelector('#unlock').open")
    assert await chromium.evaluate("document.querySelector('#state').dataset.is") == "locked"
    await chromium.evaluate(f"{type_in}('wrong')")
    await shows(chromium, "document.querySelector('#unlock-why').textContent.startsWith('That is not')")
    await shows(chromium, "document.querySelector('#unlock').open")
    assert await rows(chromium, "stream-table") == []
    await chromium.evaluate(f"{type_in}('s3cret')")
    await shows(chromium, "document.querySelector('#stream-table tbody tr')")

    await chromium.open(f"{proxy.admin}/")  # the same tab
    await shows(chromium, "document.querySelector('#stream-table tbody tr')")
    await chromium.evaluate("(document.querySelector('#stream-table td button').focus(), true)")
    await chromium.press(ENTER, TAB, ENTER)
    await shows(chromium, "document.querySelector('#said').textContent.includes('was stopped')")
    assert not (await client.read_rest()).complete
    assert await chromium.evaluate("location.href") == f"{proxy.admin}/"
