"""`ratekeeper top`: the numbers of a real service, in a real terminal, and harmless whatever a service sends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from admin_client import TOKEN
from servers import PATIENCE, free_port
from service_process import Running, poll, running
from terminals import Terminal, terminal

from ratekeeper import MemoryStore, Policy
from ratekeeper.cli.style import Style, width
from ratekeeper.cli.top_view import View
from ratekeeper.service.core import Core
from ratekeeper.service.operator_options import OperatorOptions

TOP = (sys.executable, "-m", "ratekeeper.cli.main", "top")
POLICY = """
[attributes]
user = "header:x-user"
[[rules]]
name = "each user"
key = ["user"]
limit = "2/day"
"""
PLAIN = Style(colour=False)


def status(policy: str = POLICY) -> Any:
    """The status of a core that nobody has asked yet."""
    core = Core(Policy.parse(policy), MemoryStore(100))
    core.operator = OperatorOptions()
    return json.loads(core.live.status())


def counted(before: Any, rule: int, at: float, **counts: int) -> Any:
    """A later status."""
    later = json.loads(json.dumps(before))
    later["at"] += at
    for outcome, count in counts.items():
        later["rules"][rule]["counts"][outcome] += count
    return later


def test_rates_are_those_of_the_seconds_between_two_statuses() -> None:
    view, first = View("here"), status()
    view.take(first)
    view.take(counted(first, 0, 2, allowed=12, shadow_refused=2, refused=60, delayed=1))
    text = "\n".join(view.lines(PLAIN, 80))
    assert "rule       admitted/s  rejected/s  delayed/s" in text
    assert "each user         7.0          30        0.5" in text


def test_a_service_that_began_anew_has_no_rates_below_zero() -> None:
    view, first = View("here"), status()
    view.take(counted(first, 0, 0, allowed=1000))
    view.take(counted(first, 0, 1, allowed=5))
    assert "-" not in "\n".join(view.lines(PLAIN, 80)).replace("...", "")


def test_requests_without_a_required_attribute_have_a_line_with_words() -> None:
    view, told = View("here"), status()
    told["rules"][0] |= {"name": "", "limit": None}
    view.take(told)
    assert "(attribute missing)" in "\n".join(view.lines(PLAIN, 80))


def test_what_is_wrong_is_told() -> None:
    view, wrong = View("here"), status()
    wrong["policy"]["last_reload_ok"] = False
    wrong["store"] |= {"ok": False, "failures": 1234}
    wrong["rules"][0] |= {"shadow": True, "paused_until": wrong["at"] + 60}
    view.take(wrong)
    text = "\n".join(view.lines(PLAIN, 200))
    assert "the file has mistakes and is not in use" in text
    assert "does not answer" in text
    assert "1,234 failures" in text
    assert "each user (shadow, paused)" in text
    view.gone("http://x cannot be reached")
    assert view.lines(PLAIN, 80)[0].startswith("http://x cannot be reached. Trying again; this is of ")


def test_the_latency_has_the_unit_that_reads_best() -> None:
    view, timed = View("here"), status()
    timed["latency"] = {"count": 12_345, "p50": 2.5e-5, "p90": 0.0999, "p99": 1.5}
    view.take(timed)
    text = "\n".join(view.lines(PLAIN, 120))
    assert "p50 25 us, p90 99.9 ms, p99 1.5 s (12,345 timed in the last 10 s)" in text


def test_the_most_limited_keys_have_their_rules_and_headings() -> None:
    view, limited = View("here"), status()
    limited["limited_keys"] = [{"rule": "each user", "key": "#1234", "rejected": 1234, "error": 0}]
    view.take(limited)
    lines = [line.split() for line in view.lines(PLAIN, 80)]
    assert ["most", "limited", "keys", "rule", "rejected"] in lines
    assert ["#1234", "each", "user", "1,234"] in lines


HOSTILE = ["\x1b[2J\x07", "\u202eevil", "<b>&amp;", "限流" * 50, "x" * 10_000, "a\u0301" * 300, "\n\n"]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: ascii(name[:6]))
@pytest.mark.parametrize("columns", [20, 80, 250])
def test_no_name_of_a_service_can_control_the_terminal_or_break_the_table(name: str, columns: int) -> None:
    view, hostile = View("here"), status()
    hostile["rules"][0]["name"] = hostile["policy"]["source"] = hostile["version"] = name
    hostile["limited_keys"] = [{"rule": name, "key": name, "rejected": 10**9, "error": 0}]
    view.take(hostile, [{"rule": name, "key": name, "attributes": {name: name}, "rejected": 5, "error": 0}])
    view.take(counted(hostile, 0, 1, refused=5))
    for line in view.lines(PLAIN, columns):
        assert line.isprintable()
        assert "\u202e" not in line
        assert width(line) <= max(columns, 60)
    view.gone(name)
    assert view.lines(PLAIN, columns)[0].isprintable()


@pytest.mark.parametrize("rows", [1, 5, 10, 24, 200])
def test_a_screen_has_no_more_lines_than_the_terminal_and_tells_of_the_rules_that_it_leaves_out(rows: int) -> None:
    many = status("".join(f'[[rules]]\nname = "rule {n}"\nlimit = "1/s"\n' for n in range(100)))
    view = View("here")
    view.take(counted(many, 50, 1, allowed=10))
    lines = view.lines(PLAIN, 80, rows)
    assert len(lines) <= rows
    if rows in (10, 24):
        assert any(line.startswith("rule 50 ") for line in lines), "the busiest is shown"
        assert lines[-1].startswith("and ")
    if rows == 200:
        assert sum(line.startswith("rule ") for line in lines) == 101


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tokens") / "tokens"
    file.write_text(f"# of the tests\nann {TOKEN}\n")
    return file


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tokens: Path) -> Iterator[Running]:
    policy = tmp_path_factory.mktemp("top") / "policy.toml"
    policy.write_text(POLICY)
    with running(policy, "--admin-tokens", str(tokens)) as service:
        for _ in range(5):
            service.check("alice")
        yield service


def ran(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TOP, *words], capture_output=True, text=True, timeout=2 * PATIENCE)


@pytest.mark.slow
def test_a_program_gets_a_status_a_second_equal_to_the_counters(service: Running) -> None:
    done = ran(service.url, "--json", "--count", "2")
    assert (done.returncode, done.stderr) == (0, "")
    first, second = map(json.loads, done.stdout.splitlines())
    assert second["at"] > first["at"]
    [rule] = second["rules"]
    assert rule["counts"] == {"allowed": 2, "delayed": 0, "refused": 3, "shadow_refused": 0}
    assert second["limited_keys"][0]["key"].startswith("#")


@pytest.mark.slow
def test_without_a_terminal_it_prints_without_codes_and_keys_only_for_an_admin(service: Running, tokens: Path) -> None:
    done = ran(service.url, "--count", "1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "each user" in done.stdout
    assert "alice" not in done.stdout
    assert "user=alice" in ran(service.url, "--count", "1", "--token-file", str(tokens)).stdout


@pytest.mark.slow
@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
def test_a_terminal_shows_the_service_until_a_key_ends_it(service: Running, key: bytes) -> None:
    with terminal(*TOP, service.url) as shown:
        assert all(width(line) <= 80 for line in whole(shown, 24))
        assert "\x1b[" in shown.raw
        shown.resize(120, 40)
        whole(shown, 40)
        shown.press(key)
        assert shown.ended() == 0
        assert shown.settings() == shown.before, "the terminal is as it was"


def whole(shown: Terminal, rows: int) -> list[str]:
    """Wait for a screen with the service's rule and its last line, and return it. It comes in pieces."""
    lines: list[str] = []

    def is_whole() -> bool:
        lines[:] = shown.screen
        return len(lines) == rows and "q quits" in lines[-1] and "each user" in "\n".join(lines)

    poll(is_whole)
    return lines


def _colours(shown: Terminal) -> bool:
    return any(code in shown.raw for code in ("\x1b[2m", "\x1b[31m", "\x1b[1m"))


@pytest.mark.slow
@pytest.mark.parametrize("no_color", ["", "1"])
def test_no_color_is_kept(service: Running, no_color: str) -> None:
    with terminal(*TOP, service.url, env={"NO_COLOR": no_color}) as shown:
        whole(shown, 24)
        assert _colours(shown) is not bool(no_color)
        shown.process.send_signal(signal.SIGTERM)
        assert shown.ended() == 128 + signal.SIGTERM


@pytest.mark.slow
def test_it_says_that_the_service_is_gone_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    port = str(free_port())
    with running(policy, "--port", port) as service, terminal(*TOP, service.url, columns=120) as shown:
        shown.shows("each user")
        service.signal(signal.SIGTERM)
        assert service.wait() == 0
        shown.shows("cannot be reached (Connection refused): is the service there?. Trying again")
        policy.write_text(POLICY.replace("each user", "the new rule"))
        with running(policy, "--port", port):
            shown.shows("the new rule")
            assert not any("Trying again" in line for line in shown.screen)
            shown.press(b"q")
            assert shown.ended() == 0


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1:{port}", "http://127.0.0.1:{port} cannot be reached (Connection refused): is the service"),
        ("unix:/nowhere/http.sock", "unix:/nowhere/http.sock cannot be reached (No such file or directory)"),
        ("127.0.0.1:8080", "'127.0.0.1:8080' is not the URL of a service: it must be http://HOST:PORT"),
        ("http://127.0.0.1:8080/check", "has nothing but http://HOST:PORT"),
        ("http://127.0.0.1:x", "is not http://HOST:PORT"),
        ("http://127.0.0.1:8080/#token=abc", "a token in a command line is seen by all users of this machine"),
    ],
)
def test_a_service_that_cannot_be_asked_is_an_error_that_says_why(url: str, says: str) -> None:
    port = free_port()
    done = ran(url.format(port=port))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert says.format(port=port) in done.stderr
    assert "abc" not in done.stderr


@pytest.mark.slow
def test_a_wrong_token_and_a_page_that_is_off_are_told(service: Running, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token-of-an-admin\n")
    done = ran(service.url, "--json", "--token-file", str(wrong))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("does not know this token: --token-file FILE must have one from its --admin-tokens\n")
    wrong.write_text("two tokens\nin-a-file-with-two-lines\n")
    assert "must have one line TOKEN, or NAME TOKEN" in ran(service.url, "--token-file", str(wrong)).stderr
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    with running(policy, "--no-page") as closed:
        assert "the page is off, by --no-page" in ran(closed.url, "--json").stderr


@pytest.mark.slow
def test_a_service_on_a_unix_socket_is_shown_too(tmp_path: Path) -> None:
    policy, path = tmp_path / "policy.toml", tmp_path / "http.sock"
    policy.write_text(POLICY)
    with running(policy, "--port", f"unix:{path}"):
        assert os.path.exists(path)
        assert json.loads(ran(f"unix:{path}", "--json", "--count", "1").stdout)["demo"] is False
