"""Watch: hand over the contents of a file, or a folder, each time that it changes; a broken one changes nothing.

It asks for the status now and then, which works on every file system, for files that are renamed over it, and for links
that are turned, as Kubernetes does. A subclass says how the contents are read. `at_rest` tells whether a process is
still writing. It knows no policy.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Self, TypeAlias, TypeVar

from ratekeeper.errors import PolicyError
from ratekeeper.forks import forget_in_child

T = TypeVar("T")

Judged: TypeAlias = Callable[[PolicyError | None], object]
"""A function of a file's mistakes, or of None if its policy is in use."""

LONGER = 8
"""The number of looks that must see a file unchanged if the system cannot tell whether it is being written."""

_log = logging.getLogger("ratekeeper")


class Watch(Generic[T]):
    """A watch over a file, or a folder, that holds a policy or its like. A subclass says how it is read."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        replace: Callable[[T], None],
        in_use: T | None,
        every: float,
        judged: Judged | None = None,
    ) -> None:
        if not callable(replace):
            raise TypeError(f"replace must be a function that takes a Policy, such as keeper.replace, not {replace!r}")
        if not isinstance(every, int | float) or not 0 < every < threading.TIMEOUT_MAX:
            raise ValueError(f"every must be seconds, more than 0, not {every!r}")
        self._path = os.path.abspath(path)  # the program may go to another folder, as daemons do
        self._replace = replace
        self._every = every
        self._told_judgement = judged
        self._in_use: T | None = in_use
        self._begun_with: T | None = in_use
        self._text: str | None = None  # the text last taken or refused
        self._refused = False
        self._seen = self._status()
        self._rested = 0
        self._judged: object = None
        self._told_writer = False
        self._reloads = False
        self._abandoned = False
        if in_use is None or not self._written():  # the written half of a file may be a policy too
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
        return f"{type(self).__name__}({self._path!r}, every={self._every}, in_use={self._in_use!r}{ended})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
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
        now = self._status()
        if now != self._seen:
            self._seen, self._rested, self._told_writer = now, 0, False
        elif now != self._judged:
            self._rested += 1
            if self._may_be_judged():
                self._judged = now
                self._judge()

    def _may_be_judged(self) -> bool:
        written = self._written()
        if written and not self._told_writer:
            self._told_writer = True
            _log.info("%s has changed: it is taken when no process has it open for writing any more", self._path)
        return self._rested >= LONGER if written is None else not written

    def _reload_now(self) -> None:
        self._reloads, self._rested = False, 0
        self._seen = self._judged = self._status()
        if self._written():
            self._judged = None
            _log.warning("%s is not read yet: a process has it open for writing", self._path)
        else:
            self._judge(asked=True)

    def _judge(self, asked: bool = False) -> None:
        """Take the file's policy, or log why not. If someone `asked`, log also that nothing changes."""
        text, policy = self._read()
        if self._status() != self._seen:
            if asked:
                _log.info("%s has just changed: it is taken when it has rested", self._path)
            return
        if text == self._text and not asked:
            return
        self._text = text
        mistakes = policy if isinstance(policy, PolicyError) else self._tried(policy, asked)
        self._refused = mistakes is not None
        if mistakes is not None:
            _log.error("%s is ignored: the last good one stays in use. The mistakes:\n%s", self._path, mistakes)
        if self._told_judgement is not None:
            self._told_judgement(mistakes)

    def _tried(self, policy: T, asked: bool) -> PolicyError | None:
        """Hand a policy over. Return the error if `replace` cannot use it."""
        try:
            self._take(policy, asked)
        except PolicyError as error:
            return error
        return None

    def _take(self, policy: T, asked: bool) -> None:
        """Hand a policy over, unless it is the same as the one in use."""
        before, changes = self._in_use, [] if self._in_use is None else self._changes(self._in_use, policy)
        if before is not None and not changes:
            if self._refused:
                _log.info("%s is mended: it holds the policy in use", self._path)
            elif asked:
                _log.info("%s holds the policy in use: nothing changes", self._path)
            return
        self._replace(policy)
        self._in_use, self._begun_with = policy, self._begun_with or policy
        if before is not None:
            self._warn(before, policy)
        _log.info("%s is in use: %s", self._path, "; ".join(changes) or self._described(policy))

    def _status(self) -> object:
        """Return a value that changes when the file does."""
        raise NotImplementedError

    def _written(self) -> bool | None:
        """Return whether a process has the file open for writing; None if the system cannot tell."""
        raise NotImplementedError

    def _read(self) -> tuple[str, T | PolicyError]:
        """Return the file's text, or the error instead, and its policy, or the error instead."""
        raise NotImplementedError

    def _changes(self, before: T, after: T) -> list[str]:
        """Return the changes that another policy makes; empty if it is the same."""
        raise NotImplementedError

    def _described(self, policy: T) -> str:
        """Return the contents of a policy, in a few words."""
        raise NotImplementedError

    def _warn(self, before: T, after: T) -> None:
        """Warn of a part that was not taken."""


def status_of(path: str) -> tuple[int, int, int, int, int]:
    """Return the numbers that change when a file does, or the right to read it; all 0 if there is none."""
    try:
        it = os.stat(path)
    except OSError:
        return 0, 0, 0, 0, 0
    return it.st_mtime_ns, it.st_ctime_ns, it.st_size, it.st_ino, it.st_dev


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> dict[str, str]:
    """Return the names that were added, removed and changed, each kind as a list for people, if there are any."""
    kinds = {
        "added": [name for name in new if name not in old],
        "removed": [name for name in old if name not in new],
        "changed": [name for name in new if name in old and new[name] != old[name]],
    }
    return {how: listed(names) for how, names in kinds.items() if names}


def listed(names: Iterable[str]) -> str:
    """Return names as a list for people."""
    return ", ".join(map(repr, names))
