"""What the keys of the terminal table do."""

from __future__ import annotations

import pytest

from streamproxy.top.model import HISTORY, Command, Top
from tests.unit.top.updates import a_proxy, update_of


async def showing(*names: str) -> Top:
    """A table that shows these streams."""
    proxy = a_proxy()
    for name in names:
        proxy.stream(name)
    top = Top()
    top.on_update(await update_of(proxy))
    return top


def selected(top: Top) -> str | None:
    return top.selected["id"] if top.selected is not None else None


def press(top: Top, *keys: str) -> list[Command]:
    return [command for key in keys if (command := top.on_key(key)) is not None]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ([], "a"),
        (["j"], "b"),
        (["down", "down"], "c"),
        (["down", "up"], "a"),
        (["k"], "a"),
        (["G"], "d"),
        (["end", "j"], "d"),
        (["end", "home"], "a"),
        (["pagedown"], "d"),
        (["G", "pageup"], "a"),
        (["?"], "a"),
    ],
)
async def test_keys_select_a_stream(keys: list[str], expected: str) -> None:
    top = await showing("a", "b", "c", "d")
    assert press(top, *keys) == []
    assert selected(top) == expected


async def test_a_stream_stays_selected_wherever_it_moves() -> None:
    top = await showing("a", "b", "c")
    press(top, "j")
    proxy = a_proxy()
    for name in ("c", "a", "b"):
        proxy.stream(name)
    top.on_update(await update_of(proxy))
    assert (selected(top), top.place) == ("b", 2)


async def test_when_the_selected_stream_ends_the_one_in_its_place_is_selected() -> None:
    top = await showing("a", "b", "c")
    press(top, "G")
    proxy = a_proxy()
    proxy.stream("a")
    top.on_update(await update_of(proxy))
    assert selected(top) == "a"
    top.on_update(await update_of(a_proxy()))
    assert selected(top) is None
    assert press(top, "x", "y", "j", "G") == []


async def test_a_stream_is_stopped_only_when_that_is_confirmed() -> None:
    top = await showing("a", "b")
    assert press(top, "j", "x") == []
    assert top.asking == "b"
    assert press(top, "y") == [Command("stop", "b")]
    assert top.asking is None


@pytest.mark.parametrize("key", ["n", "x", "q", "Y", "down", "\x1b"])
async def test_any_other_key_lets_it_run_and_does_nothing_else(key: str) -> None:
    top = await showing("a", "b")
    assert press(top, "x", key) == []
    assert (top.asking, selected(top)) == (None, "a")


async def test_what_is_confirmed_is_what_was_asked_even_when_the_table_has_moved() -> None:
    top = await showing("a", "b")
    press(top, "x")
    proxy = a_proxy()
    proxy.stream("b")
    top.on_update(await update_of(proxy))
    assert press(top, "y") == [Command("stop", "a")]


async def test_q_quits_and_ctrl_c_quits_even_while_it_asks() -> None:
    top = await showing("a")
    assert press(top, "q") == [Command("quit")]
    assert press(top, "x", "ctrl-c") == [Command("quit")]


async def test_a_sort_key_pressed_again_turns_the_order_round() -> None:
    top = await showing("a")
    assert top.view() == {"sort": "age", "order": "desc", "limit": "200"}
    assert press(top, "b") == [Command("look")]
    assert top.view()["sort"] == "bytes"
    press(top, "b")
    assert top.view()["order"] == "asc"
    press(top, "r")
    assert (top.view()["sort"], top.view()["order"]) == ("rate", "desc")


async def test_f_goes_through_the_routes_and_back_to_all() -> None:
    top = await showing("a")
    seen = []
    for _ in range(3):
        assert press(top, "f") == [Command("look")]
        seen.append(top.view().get("route"))
    assert seen == ["chat", "files", None]


async def test_histories_are_kept_of_what_is_seen_and_no_longer_than_is_shown() -> None:
    top, proxy = Top(), a_proxy()
    stream = proxy.stream("a", events=5)
    update = await update_of(proxy)
    for _ in range(HISTORY + 10):
        top.on_update(update)
    assert len(top.histories["a"]) == HISTORY
    proxy.ledger.close(stream)
    top.on_update(await update_of(proxy))
    assert top.histories == {}
