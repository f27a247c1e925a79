"""The commands of the program, their output and their exit statuses."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from streamproxy.cli import cli, main
from tests.conftest import Connect
from tests.doubles.client import fetch
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import configuration, write_configuration

GOOD = configuration("http://127.0.0.1:9")


async def program(arguments: Sequence[str], cwd: Path) -> tuple[int, str]:
    """Run the program to its end; its exit status and output."""
    with Process([sys.executable, "-m", "streamproxy", *arguments], cwd=cwd) as process:
        status = await process.exited()
    return status, process.output


async def command(arguments: Sequence[str], cwd: Path) -> tuple[int, str]:
    """The same of a command that opens nothing, in this process: most of what the program takes is its start."""
    return await asyncio.to_thread(_run_here, arguments, cwd)


def _run_here(arguments: Sequence[str], cwd: Path) -> tuple[int, str]:
    output = io.StringIO()
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        patch.object(sys, "argv", ["streamproxy", *arguments]),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    status = ended.value.code or 0
    assert isinstance(status, int)
    return status, output.getvalue().rstrip("\n")


async def test_check_counts_routes_and_upstreams(tmp_path: Path) -> None:
    file = write_configuration(tmp_path, GOOD)
    assert await program(["check", "-c", str(file)], tmp_path) == (0, "ok: 1 routes, 1 upstreams")


async def test_check_finds_the_file_in_the_working_folder(tmp_path: Path) -> None:
    write_configuration(tmp_path, GOOD)
    assert await command(["check"], tmp_path) == (0, "ok: 1 routes, 1 upstreams")


async def test_check_reports_every_error_with_its_position_and_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("routes:\n  - path: /*\n    upstrem: http://127.0.0.1:9\n    keepalive: soon\n")
    status, output = await command(["check", "-c", str(file)], tmp_path)
    assert status == 2
    assert f"{file}:3:5: " in output
    assert "upstream" in output
    assert f"{file}:4:" in output


async def test_check_and_run_refuse_broken_files_of_keys_and_tokens_in_the_same_words(tmp_path: Path) -> None:
    keys, tokens, file = tmp_path / "keys.json", tmp_path / "tokens", tmp_path / "broken.yaml"
    keys.write_text('{"keys":"x"}')
    tokens.write_text("one two three\n")
    file.write_text(
        "routes:\n"
        f"  - {{path: /a, upstream: 'http://127.0.0.1:9', auth: {{jwt: {{jwks_file: {keys}}}}}}}\n"
        f"  - {{path: /b, upstream: 'http://127.0.0.1:9', auth: {{bearer: {{tokens: [{{file: {tokens}}}]}}}}}}\n"
    )
    status, output = await command(["check", "-c", str(file)], tmp_path)
    assert (status, len(output.splitlines())) == (2, 2)
    assert f"{file}:2:72: routes[0].auth.jwt.jwks_file: " in output
    assert f"{file}:3:80: routes[1].auth.bearer.tokens[0].file: " in output
    assert await command(["run", "-c", str(file)], tmp_path) == (2, output)


async def test_run_with_a_missing_file_exits_with_2_and_names_it(tmp_path: Path) -> None:
    status, output = await program(["run", "-c", "nowhere.yaml"], tmp_path)
    assert status == 2
    assert "nowhere.yaml" in output
    assert "Traceback" not in output


async def test_without_a_file_in_the_working_folder_the_ways_to_name_one_are_said(tmp_path: Path) -> None:
    status, output = await command(["check"], tmp_path)
    advice = "streamproxy.yaml:1:1: does not exist: name the file with -c or in $STREAMPROXY_CONFIG"
    assert (status, output) == (2, advice)


async def test_run_on_a_port_in_use_exits_with_1_and_names_it(tmp_path: Path) -> None:
    file = write_configuration(tmp_path, GOOD)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        status, output = await program(["run", "-c", str(file), "--listen", address], tmp_path)
    assert status == 1
    assert address in output
    assert "Traceback" not in output


async def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    status, output = await program(["run", "--lissten", "x"], tmp_path)
    assert status == 2
    assert "--listen" in output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "a.yaml"], "Got unexpected extra argument (a.yaml): write -c a.yaml"),
        (["check", "a.yml"], "Got unexpected extra argument (a.yml): write -c a.yml"),
        (["a.yaml"], "'a.yaml' is no command: write streamproxy run -c a.yaml"),
    ],
)
def test_a_file_without_its_option_is_answered_by_the_option(words: list[str], said: str) -> None:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 2
    assert said in result.output


async def test_schema_is_a_json_schema_that_knows_routes(tmp_path: Path) -> None:
    status, output = await command(["schema"], tmp_path)
    assert status == 0
    assert "routes" in json.loads(output)["properties"]


async def test_version_is_one_line(tmp_path: Path) -> None:
    status, output = await program(["--version"], tmp_path)
    assert status == 0
    assert output.startswith("streamproxy ")
    assert "\n" not in output


async def test_explain_names_the_route_and_exits_with_0_or_1(tmp_path: Path) -> None:
    file = write_configuration(tmp_path, configuration([{"path": "/a/*", "upstream": "http://127.0.0.1:9"}]))
    status, output = await command(
        ["explain", "-c", str(file), "POST", "http://h/a/b", "-H", "cookie: x=1", "-d", "{}"], tmp_path
    )
    assert status == 0
    assert output.startswith("route: /a/*\nupstream: http://127.0.0.1:9")
    assert "  POST /a/b HTTP/1.1\n" in output
    assert "  cookie: ***\n" in output
    status, output = await command(["explain", "-c", str(file), "GET", "/b"], tmp_path)
    assert (status, output.splitlines()[1]) == (1, "  /a/*: the path is not one of its own")


async def test_explain_exits_with_2_for_wrong_usage_and_for_a_broken_file(tmp_path: Path) -> None:
    file = write_configuration(tmp_path, GOOD)
    assert (await command(["explain", "-c", str(file), "GET", "nowhere"], tmp_path))[0] == 2
    assert (await command(["explain", "-c", str(file), "GET", "/", "-H", "no colon"], tmp_path))[0] == 2
    assert (await command(["explain", "-c", "missing.yaml", "GET", "/"], tmp_path))[0] == 2


async def test_proxy_serves_one_upstream_without_a_file(tmp_path: Path, dial: Connect) -> None:
    upstream = await asyncio.start_server(_echo_target, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/api"
    arguments = ["proxy", url, "--listen", "127.0.0.1:0", "--admin", "off"]
    with Process([sys.executable, "-m", "streamproxy", *arguments], cwd=tmp_path) as process:
        base = (await process.line(r"(http://127\.0\.0\.1:\d+)"))[1]
        answer = await fetch(f"{base}/v1/models?x=1")
    upstream.close()
    assert (answer.status, answer.body) == (200, b"/api/v1/models?x=1")


async def test_what_proxy_prints_is_a_file_that_check_accepts(tmp_path: Path) -> None:
    status, output = await command(["proxy", "127.0.0.1:8000", "--protocol", "openai", "--print"], tmp_path)
    assert status == 0
    (tmp_path / "streamproxy.yaml").write_text(output)
    assert await command(["check"], tmp_path) == (0, "ok: 1 routes, 1 upstreams")


async def test_proxy_exits_with_2_for_what_is_no_upstream(tmp_path: Path) -> None:
    for arguments in (["http://h/?q"], ["ftp://h"], ["h:1", "--protocol", "gopher"], ["h:1", "--keepalive", "soon"]):
        status, output = await command(["proxy", *arguments], tmp_path)
        assert (status, "Traceback" in output) == (2, False)


async def _echo_target(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    target = head.split()[1]
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(target), target))
    await writer.drain()
    writer.close()


async def test_the_demo_streams_without_a_file_or_a_key(tmp_path: Path, dial: Connect) -> None:
    arguments = ["demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with Process([sys.executable, "-m", "streamproxy", *arguments], cwd=tmp_path) as process:
        url = (await process.line(r"listening on (http://\S+)"))[1]
        client = await dial(url)
        messages = [{"role": "user", "content": "go"}]
        body = json.dumps({"model": "demo", "messages": messages, "max_tokens": 5, "stream": True})
        await client.request(
            "/v1/chat/completions", method="POST", headers=[("Content-Type", "application/json")], body=body.encode()
        )
        answer = await client.read_response()
        assert (answer.status, answer.complete) == (200, True)
        assert (answer.get("content-type") or b"").startswith(b"text/event-stream")
        assert answer.body.endswith(b"data: [DONE]\n\n")
        assert await process.stop() == 0, process.output


async def test_the_demo_without_its_admin_listener_says_what_it_needs(tmp_path: Path) -> None:
    status, output = await program(["demo", "--listen", "127.0.0.1:0", "--admin", "off"], tmp_path)
    assert status == 1
    assert "--admin" in output


async def test_health_says_whether_a_proxy_lives_and_whether_it_is_ready(run_proxy: RunProxy, tmp_path: Path) -> None:
    proxy = await run_proxy(GOOD)
    assert await program(["health", "--admin", proxy.admin], tmp_path) == (0, "ok")
    status, output = await program(["health", "--ready", "--admin", proxy.admin.removeprefix("http://")], tmp_path)
    assert status == 0
    assert '"ready":true' in output


async def test_health_of_a_proxy_that_is_not_there_is_an_error_in_one_line(tmp_path: Path) -> None:
    status, output = await program(["health", "--admin", f"unix:{tmp_path}/none.sock"], tmp_path)
    assert (status, len(output.splitlines())) == (1, 1)
    assert "does not answer" in output


async def test_health_refuses_what_is_no_address(tmp_path: Path) -> None:
    status, output = await program(["health", "--admin", "nowhere"], tmp_path)
    assert status == 2
    assert "is not an admin listener" in output


async def test_health_imports_nothing_of_the_proxy(tmp_path: Path) -> None:
    program = "import sys; import streamproxy.health; print([m for m in sys.modules if m.startswith('pydantic')])"
    with Process([sys.executable, "-c", program], cwd=tmp_path) as process:
        assert await process.exited() == 0
    assert process.output == "[]"
