"""The commands of the program, their output and their exit statuses."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import Connect
from tests.integration.process import Process
from tests.integration.proxy import configuration, write_configuration

GOOD = configuration("http://127.0.0.1:9")


async def command(arguments: Sequence[str], cwd: Path) -> tuple[int, str]:
    """Run the program to its end; its exit status and output."""
    with Process([sys.executable, "-m", "streamproxy", *arguments], cwd=cwd) as process:
        status = await process.exited()
    return status, process.output


async def test_check_counts_routes_and_upstreams(tmp_path: Path) -> None:
    file = write_configuration(tmp_path, GOOD)
    assert await command(["check", "-c", str(file)], tmp_path) == (0, "ok: 1 routes, 1 upstreams")


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
    status, output = await command(["run", "-c", "nowhere.yaml"], tmp_path)
    assert status == 2
    assert "nowhere.yaml" in output
    assert "Traceback" not in output


async def test_run_on_a_port_in_use_exits_with_1_and_names_it(tmp_path: Path) -> None:
    file = write_configuration(tmp_path, GOOD)
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        status, output = await command(["run", "-c", str(file), "--listen", address], tmp_path)
    assert status == 1
    assert address in output
    assert "Traceback" not in output


async def test_wrong_usage_exits_with_2(tmp_path: Path) -> None:
    status, output = await command(["run", "--lissten", "x"], tmp_path)
    assert status == 2
    assert "--listen" in output


async def test_schema_is_a_json_schema_that_knows_routes(tmp_path: Path) -> None:
    status, output = await command(["schema"], tmp_path)
    assert status == 0
    assert "routes" in json.loads(output)["properties"]


async def test_version_is_one_line(tmp_path: Path) -> None:
    status, output = await command(["--version"], tmp_path)
    assert status == 0
    assert output.startswith("streamproxy ")
    assert "\n" not in output


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
    status, output = await command(["demo", "--listen", "127.0.0.1:0", "--admin", "off"], tmp_path)
    assert status == 1
    assert "--admin" in output
