"""What of a configuration comes into force by a reload, and what waits for a restart."""

from __future__ import annotations

import pytest

from streamproxy.config import Config, parse_config
from streamproxy.process.reload import pin
from tests.doubles.certificates import Certificate

PLAIN = "{}"


def config(server: str, admin: str = "{}") -> Config:
    text = f"server: {server}\nadmin: {admin}\nroutes: [{{path: /*, upstream: http://a}}]\n"
    return parse_config(text, name="f.yaml")


@pytest.mark.parametrize(
    ("server", "key"),
    [
        ("{listen: 127.0.0.1:1}", "server.listen"),
        ("{engine: hypercorn}", "server.engine"),
        ("{max_header_size: 1KiB}", "server.max_header_size"),
        ("{max_connections: 5}", "server.max_connections"),
        ("{head_timeout: 5s}", "server.head_timeout"),
        ("{keepalive_timeout: 5s}", "server.keepalive_timeout"),
    ],
)
def test_what_a_listener_was_opened_with_stays(server: str, key: str) -> None:
    started = config(PLAIN)
    in_force, restart = pin(started, config(server))
    assert restart == [key]
    assert in_force.server == started.server


def test_the_admin_listener_stays_but_its_mount_follows() -> None:
    in_force, restart = pin(config(PLAIN), config(PLAIN, "{listen: off, mount: /-}"))
    assert restart == ["admin.listen"]
    assert in_force.admin.listen == config(PLAIN).admin.listen
    assert in_force.admin.mount == "/-"


def test_the_rest_follows_at_once() -> None:
    new = config("{trusted_proxies: [10.0.0.0/8], drain_timeout: 5s, drain_delay: 2s}")
    assert pin(config(PLAIN), new) == (new, [])


def test_a_key_that_is_back_at_its_value_needs_no_restart_any_more() -> None:
    started = config(PLAIN)
    _, restart = pin(started, config("{head_timeout: 5s}"))
    assert restart
    assert pin(started, config("{head_timeout: 30s}")) == (started, [])


def test_tls_is_not_switched_on_or_off_but_its_files_may_be_others(certificate: Certificate) -> None:
    pair = f"cert: {certificate.cert}, key: {certificate.key}"
    tls = config(f"{{tls: {{{pair}}}}}")
    strict = config(f"{{tls: {{{pair}, client_ca: {certificate.cert}}}}}")
    for started, new, key in (
        (config(PLAIN), tls, "server.tls"),
        (tls, config(PLAIN), "server.tls"),
        (tls, strict, "server.tls.client_ca"),
        (strict, tls, "server.tls.client_ca"),
    ):
        in_force, restart = pin(started, new)
        assert (in_force.server, restart) == (started.server, [key])
    other = tls.model_copy(update={"server": tls.server.model_copy(update={"tls": strict.server.tls})})
    assert pin(strict, other) == (other, [])
