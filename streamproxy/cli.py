"""The commands. Exit status: 0 fine, 1 failed at run time, 2 wrong usage or configuration."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import click

from streamproxy.app import load_config
from streamproxy.config import Config, json_schema, parse_config
from streamproxy.config.advice import advice
from streamproxy.config.auth import bearer_token
from streamproxy.config.values import address
from streamproxy.errors import ConfigError, Problem, StreamproxyError
from streamproxy.health import health
from streamproxy.version import COMPILED, __version__

T = TypeVar("T")

_CONFIG = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="The configuration file. [default: $STREAMPROXY_CONFIG, or streamproxy.yaml in the working directory]",
)
_DEFAULT_FILE = "streamproxy.yaml"
_LEVELS = click.Choice(["debug", "info", "warning", "error"])


def _named_file(words: list[str]) -> str | None:
    return next((word for word in words if word.endswith((".yaml", ".yml", ".json"))), None)


class _Commands(click.Group):
    """The group of all commands. A file in the place of a command gets the command that serves it."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if (file := _named_file(args[:1])) is not None:
            ctx.fail(f"{file!r} is no command: write streamproxy run -c {file}")
        return super().resolve_command(ctx, args)


class _OfFile(click.Command):
    """A command whose file is named with ``-c``, which is said if the option was left out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = [*args]
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            file = _named_file(words)
            if file is None or "unexpected extra argument" not in error.message:
                raise
            raise click.UsageError(f"{error.message}: write -c {file}", ctx) from None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    __version__, prog_name="streamproxy", message=f"%(prog)s %(version)s ({'compiled' if COMPILED else 'pure Python'})"
)
def cli() -> None:
    """A streaming reverse proxy for LLM servers and event backends."""


cli.add_command(health)


@cli.command(cls=_OfFile)
@_CONFIG
@click.option("--listen", multiple=True, metavar="ADDRESS", help="Overrides server.listen; may be repeated.")
@click.option("--admin", metavar="ADDRESS", help="Overrides admin.listen; off for none.")
@click.option("--log-level", type=_LEVELS, help="Overrides log.level.")
@click.option("--takeover", is_flag=True, help="Take over from the process that serves server.listen.")
def run(path: Path | None, listen: tuple[str, ...], admin: str | None, log_level: str | None, takeover: bool) -> None:
    """Serve until a signal ends it."""
    from streamproxy.process.reload import Source
    from streamproxy.process.run import run as serve

    file = _file(path)

    def load() -> Config:
        return _override(load_config(file), listen, admin, log_level)

    source = Source(file, load)
    serve(load(), _tell, source, takeover=takeover)


@cli.command()
@click.argument("url")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="ADDRESS", help="As server.listen.")
@click.option(
    "--admin", default="127.0.0.1:9090", show_default=True, metavar="ADDRESS", help="As admin.listen; off for none."
)
@click.option("--protocol", metavar="NAME", help="As the route's protocol: http, auto, openai, anthropic and so on.")
@click.option("--keepalive", metavar="DURATION", help="As the route's keepalive: a duration, or off.")
@click.option("--print", "only_print", is_flag=True, help="Print the equivalent configuration file, and exit.")
def proxy(url: str, listen: str, admin: str, protocol: str | None, keepalive: str | None, only_print: bool) -> None:
    """Serve one upstream without a configuration file.

    All requests are sent to URL. A path in URL is prepended to the path of each request.
    """
    from streamproxy.config.single import single_upstream
    from streamproxy.process.run import run as serve

    try:
        text = single_upstream(url, listen, admin, protocol=protocol, keepalive=keepalive)
    except ValueError as error:
        raise click.BadParameter(f"{url!r} {error}", param_hint="URL") from None
    config = parse_config(text, name="streamproxy proxy")
    if only_print:
        click.echo(text, nl=False)
    else:
        serve(config, _tell)


@cli.command(cls=_OfFile)
@_CONFIG
def check(path: Path | None) -> None:
    """Validate a configuration file without contacting anything."""
    config = load_config(_file(path))
    for sentence in advice(config):
        click.echo(f"warning: {sentence}", err=True)
    click.echo(f"ok: {len(config.routes)} routes, {len(config.upstreams)} upstreams")


@cli.command()
@click.argument("method")
@click.argument("url")
@_CONFIG
@click.option("-H", "--header", "fields", multiple=True, metavar="NAME:VALUE", help="A header; may be repeated.")
@click.option("-d", "--data", "body", metavar="BODY", help="The request's body.")
def explain(method: str, url: str, path: Path | None, fields: tuple[str, ...], body: str | None) -> None:
    """Show how a request would be handled, without contacting anything.

    Prints the route that matches, its upstreams and endpoints, the request to the upstream with secrets hidden, the
    time-outs and limits, and why each earlier route does not match. URL may be a path alone. The exit status is 1 if no
    route matches.
    """
    import asyncio

    from streamproxy.explain import asked
    from streamproxy.explain import explain as explanation

    config = load_config(_file(path))
    try:
        request = asked(method, url, fields, body)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    said = asyncio.run(explanation(config, request))
    click.echo("\n".join(said.lines))
    if not said.taken:
        sys.exit(1)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the configuration file."""
    click.echo(json.dumps(json_schema(), indent=2))


@cli.command()
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="ADDRESS")
@click.option("--admin", default="127.0.0.1:9090", show_default=True, metavar="ADDRESS")
def demo(listen: str, admin: str) -> None:
    """Run the proxy with an embedded LLM-like upstream. It needs no configuration and no key."""
    from streamproxy.process.demo import run_demo

    run_demo(listen, admin, _tell)


@cli.command()
@click.option(
    "--admin",
    show_default="127.0.0.1:9090",
    metavar="URL",
    help="The proxy's admin listener: http://host:port, host:port or unix:/path.sock.",
)
@click.option(
    "--token",
    envvar="STREAMPROXY_ADMIN_TOKEN",
    show_envvar=True,
    metavar="TOKEN",
    help="The token of the admin listener, if admin.token is set.",
)
@click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    help="Take the admin listener and its token from the proxy's configuration file.",
)
@click.option("--interval", default="1s", show_default=True, metavar="DURATION", help="The time between updates.")
@click.option("--once", is_flag=True, help="Print one plain table and exit, as without a terminal.")
def top(admin: str | None, token: str | None, path: Path | None, interval: str, once: bool) -> None:
    """Show the streams of a running proxy live, and stop them."""
    from streamproxy.top.command import run_top
    from streamproxy.top.source import parse_admin, parse_interval

    if path is not None:
        from streamproxy.app import load_config

        section = load_config(path).admin
        token = token or section.token
        admin = admin or next(map(str, section.listen), None)
    if token is not None:
        _check_token(token)
    where = _parsed("--admin", admin or "127.0.0.1:9090", parse_admin)
    run_top(where, _parsed("--interval", interval, parse_interval), token, once=once, say=_say)


def _file(path: Path | None) -> Path:
    named = path or os.environ.get("STREAMPROXY_CONFIG")
    if not named and not Path(_DEFAULT_FILE).exists():
        advice = "does not exist: name the file with -c or in $STREAMPROXY_CONFIG"
        raise ConfigError([Problem(_DEFAULT_FILE, 1, 1, "", advice)])
    return Path(named or _DEFAULT_FILE)


def _override(config: Config, listen: tuple[str, ...], admin: str | None, log_level: str | None) -> Config:
    if listen:
        addresses = tuple(_parsed("--listen", text, address) for text in listen)
        config = config.model_copy(update={"server": config.server.model_copy(update={"listen": addresses})})
    if admin is not None:
        admins = () if admin == "off" else (_parsed("--admin", admin, address),)
        config = config.model_copy(update={"admin": config.admin.model_copy(update={"listen": admins})})
    if log_level is not None:
        config = config.model_copy(update={"log": config.log.model_copy(update={"level": log_level})})
    return config


def _parsed(option: str, text: str, parse: Callable[[str], T]) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}", param_hint=option) from error


def _check_token(token: str) -> None:
    try:
        bearer_token(token)
    except ValueError as error:
        raise click.BadParameter(f"the text {error}", param_hint="--token") from None  # the text is secret


def _say(line: str) -> None:
    click.echo(line)
    sys.stdout.flush()


def _tell(line: str) -> None:
    """Prints a line, and ignores a closed stdout: the proxy serves even if nothing reads its output."""
    try:
        _say(line)
    except OSError:
        # Otherwise the failed output would be written again at exit, and change the exit status.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def main() -> None:
    """The entry point of the command ``streamproxy``."""
    try:
        cli(prog_name="streamproxy")
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except StreamproxyError as error:
        click.echo(f"streamproxy: {error}", err=True)
        sys.exit(1)
