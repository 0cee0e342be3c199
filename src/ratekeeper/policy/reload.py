"""watch_policy(): hand over the policy of a file each time that the file changes; a broken file changes nothing.

It asks for the file's status now and then, which works on every file system, for files that are renamed over it, and
for links that are turned, as Kubernetes does. It knows a file and a function that takes policies, and no keeper.
`at_rest` decides whether the file is at rest, so that nobody is still writing it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TypeAlias

from ratekeeper.errors import PolicyError
from ratekeeper.forks import forget_in_child
from ratekeeper.policy.at_rest import open_for_writing
from ratekeeper.policy.file.load import parse_policy, policy_text
from ratekeeper.policy.model import Policy

Replace: TypeAlias = Callable[[Policy], None]
Judged: TypeAlias = Callable[[PolicyError | None], object]
"""A function of a file's mistakes, or of None if its policy is in use."""

LONGER = 8
"""The number of looks that must see a file unchanged if the system cannot tell whether it is being written."""

_log = logging.getLogger("ratekeeper")


def watch_policy(
    path: str | os.PathLike[str],
    replace: Replace,
    *,
    in_use: Policy | None = None,
    every: float = 0.25,
    judged: Judged | None = None,
) -> PolicyWatch:
    """Call `replace`, such as `Keeper.replace`, with the file's policy whenever it differs from `in_use`.

    The file is looked at once before this returns, and then each `every` seconds by the watch's own thread, also in a
    forked child, until `stop`. Without `in_use`, the file's first policy is handed over too. A change is taken when the
    file has rested for `every` seconds and no process has it open for writing, so that none is read half written. If
    the system cannot tell the latter, the file must rest for `LONGER` times `every`. The logger "ratekeeper" reports a
    policy that is taken (INFO), a file with mistakes, which changes nothing (ERROR, once for each content), and another
    [store], which only a restart can take (WARNING). A `PolicyError` that `replace` raises is a mistake too. `judged`
    is called each time that the file was read, for counters.

    >>> from ratekeeper import Keeper, Policy
    >>> keeper = Keeper(Policy.load("examples/policy.toml"))
    >>> watch = watch_policy("examples/policy.toml", keeper.replace, in_use=keeper.policy)
    >>> watch.stop()
    """
    return PolicyWatch(path, replace, in_use, every, judged)


class PolicyWatch:
    """A watch over a policy file, begun by `watch_policy`. As a context manager it is stopped at the end.

    >>> from ratekeeper import Keeper, Policy
    >>> keeper = Keeper(Policy.load("examples/policy.toml"))
    >>> with watch_policy("examples/policy.toml", keeper.replace, in_use=keeper.policy) as watch:
    ...     watch.reload()  # look now
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        replace: Replace,
        in_use: Policy | None,
        every: float,
        judged: Judged | None = None,
    ) -> None:
        if not callable(replace):
            raise TypeError(f"replace must be a function that takes a Policy, such as keeper.replace, not {replace!r}")
        if not isinstance(every, int | float) or not 0 < every < threading.TIMEOUT_MAX:
            raise ValueError(f"every must be seconds, more than 0, not {every!r}")
        self._path = os.fspath(path)
        self._replace = replace
        self._every = every
        self._told_judgement = judged
        self._in_use = self._begun_with = in_use
        self._text: str | None = None  # the text last taken or refused
        self._refused = False
        self._seen = _status(self._path)
        self._rested = 0
        self._judged: _Status | None = None
        self._told_writer = False
        self._reloads = False
        self._abandoned = False
        self._judge()
        self._start()
        forget_in_child(self)

    def reload(self) -> None:
        """Make the thread read the file now, and log the result, also if nothing changed.

        Return before it is done. The file needs no rest, but is not read while a process has it open for writing.
        """
        self._reloads = True
        self._wake.set()

    def stop(self) -> None:
        """Stop watching: after this returns, nothing is handed over."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def abandon(self) -> None:
        """Stop watching, some time after this returns. Take no lock and wait for nobody, as a finalizer must."""
        self._abandoned = True

    def __repr__(self) -> str:
        ended = ", stopped" if self._abandoned or self._stopping.is_set() else ""
        return f"PolicyWatch({self._path!r}, every={self._every}, in_use={self._in_use!r}{ended})"

    def __enter__(self) -> PolicyWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self) -> None:
        self._stopping, self._wake = threading.Event(), threading.Event()
        run = (self._stopping, self._wake)
        self._thread = threading.Thread(target=self._run, args=run, name="ratekeeper policy", daemon=True)
        self._thread.start()

    def forget(self) -> None:
        """Go on in a forked child, without the parent's thread, which may have been in the middle of a change."""
        if not (self._abandoned or self._stopping.is_set()):
            self._text = self._judged = None
            self._start()

    def _run(self, stopping: threading.Event, wake: threading.Event) -> None:
        while not (self._abandoned or stopping.is_set()):
            if wake.wait(self._every):
                wake.clear()
            if self._abandoned or stopping.is_set():
                break
            try:
                if self._reloads:
                    self._reload_now()
                else:
                    self._look()
            except Exception:  # `replace` is the caller's; the watch goes on for the next change
                _log.exception("%s has changed, but was not taken", self._path)

    def _look(self) -> None:
        """Judge the file if it has changed, and has rested since the last look."""
        now = _status(self._path)
        if now != self._seen:
            self._seen, self._rested, self._told_writer = now, 0, False
        elif now != self._judged:
            self._rested += 1
            if self._may_be_judged():
                self._judged = now
                self._judge()

    def _may_be_judged(self) -> bool:
        written = open_for_writing(self._path)
        if written and not self._told_writer:
            self._told_writer = True
            _log.info("%s has changed: it is taken when no process has it open for writing any more", self._path)
        return self._rested >= LONGER if written is None else not written

    def _reload_now(self) -> None:
        self._reloads, self._rested = False, 0
        self._seen = self._judged = _status(self._path)
        if open_for_writing(self._path):
            self._judged = None
            _log.warning("%s is not read yet: a process has it open for writing", self._path)
        else:
            self._judge(asked=True)

    def _judge(self, asked: bool = False) -> None:
        """Take the file's policy, or log why not. If someone `asked`, log also that nothing changes."""
        text, policy = _read(self._path)
        if _status(self._path) != self._seen:
            if asked:
                _log.info("%s has just changed: it is taken when it has rested", self._path)
            return
        if text == self._text and not asked:
            return
        self._text = text
        mistakes = self._tried(policy, asked) if isinstance(policy, Policy) else policy
        self._refused = mistakes is not None
        if mistakes is not None:
            _log.error("%s is not taken: the policy in use before stays. Its mistakes:\n%s", self._path, mistakes)
        if self._told_judgement is not None:
            self._told_judgement(mistakes)

    def _tried(self, policy: Policy, asked: bool) -> PolicyError | None:
        """Hand a policy over. Return the error if `replace` cannot use it."""
        try:
            self._take(policy, asked)
        except PolicyError as error:
            return error
        return None

    def _take(self, policy: Policy, asked: bool) -> None:
        """Hand a policy over, unless it is the same as the one in use."""
        before, changes = self._in_use, [] if self._in_use is None else _changes(self._in_use, policy)
        if before is not None and not changes:
            if self._refused:
                _log.info("%s is mended: it holds the policy in use", self._path)
            elif asked:
                _log.info("%s holds the policy in use: nothing changes", self._path)
            return
        self._replace(policy)
        self._in_use, self._begun_with = policy, self._begun_with or policy
        if before is not None and before.store != policy.store != self._begun_with.store:
            _log.warning("%s has another [store], which is not taken before a restart; all else is", self._path)
        _log.info("%s is in use: %s", self._path, "; ".join(changes) or f"rules {_named([*_by_name(policy)])}")


_Status: TypeAlias = tuple[int, int, int, int]


def _status(path: str) -> _Status:
    """Return the numbers that change when a file does; all 0 if there is none."""
    try:
        it = os.stat(path)
    except OSError:
        return 0, 0, 0, 0
    return it.st_mtime_ns, it.st_size, it.st_ino, it.st_dev


def _read(path: str) -> tuple[str, Policy | PolicyError]:
    """Return a file's text, or the error instead, and its policy, or the error instead."""
    text = ""
    try:
        text = policy_text(path)
        return text, parse_policy(text, path)
    except PolicyError as error:
        return text or str(error), error


def _changes(before: Policy, after: Policy) -> list[str]:
    """Return the changes that another policy makes; empty if it is the same."""
    old, new = _by_name(before), _by_name(after)
    stay = [name for name in new if name in old]
    of_rules = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in stay if new[name] != old[name]],
    }
    changes = [f"{how} {_named(names)}" for how, names in of_rules.items() if names]
    if stay != [name for name in old if name in new]:
        changes.append("other order of rules")
    for part in ("exempt", "attributes", "tiers", "store"):
        if getattr(before, part) != getattr(after, part):
            changes.append(f"other {part if part == 'exempt' else f'[{part}]'}")
    return changes


def _by_name(policy: Policy) -> dict[str, object]:
    return {rule.name: rule for rule in policy.rules}


def _named(names: list[str]) -> str:
    return ", ".join(map(repr, names))
