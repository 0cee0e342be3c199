"""watch_policy(): hand over the policy of a file each time that the file changes; a broken file changes nothing.

It knows a policy's file and a function that takes policies, and no keeper. `watch` decides when the file is read.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeAlias

from ratekeeper.errors import PolicyError
from ratekeeper.policy.at_rest import open_for_writing
from ratekeeper.policy.file.load import parse_policy, policy_text
from ratekeeper.policy.model import Policy
from ratekeeper.policy.watch import Judged, Watch, differences, listed, status_of

Replace: TypeAlias = Callable[[Policy], None]
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


class PolicyWatch(Watch[Policy]):
    """A watch over a policy file, begun by `watch_policy`. As a context manager it is stopped at the end.

    >>> from ratekeeper import Keeper, Policy
    >>> keeper = Keeper(Policy.load("examples/policy.toml"))
    >>> with watch_policy("examples/policy.toml", keeper.replace, in_use=keeper.policy) as watch:
    ...     watch.reload()  # look now
    """

    def _status(self) -> object:
        return status_of(self._path)

    def _written(self) -> bool | None:
        return open_for_writing(self._path)

    def _read(self) -> tuple[str, Policy | PolicyError]:
        text = ""
        try:
            text = policy_text(self._path)
            return text, parse_policy(text, self._path)
        except PolicyError as error:
            return text or str(error), error

    def _changes(self, before: Policy, after: Policy) -> list[str]:
        old, new = _by_name(before), _by_name(after)
        changes = [f"{how} {names}" for how, names in differences(old, new).items()]
        if [name for name in new if name in old] != [name for name in old if name in new]:
            changes.append("other order of rules")
        for part in ("exempt", "attributes", "tiers", "store"):
            if getattr(before, part) != getattr(after, part):
                changes.append(f"other {part if part == 'exempt' else f'[{part}]'}")
        return changes

    def _described(self, policy: Policy) -> str:
        return f"rules {listed(_by_name(policy))}"

    def _warn(self, before: Policy, after: Policy) -> None:
        assert self._begun_with is not None
        if before.store != after.store != self._begun_with.store:
            _log.warning("%s has another [store], which needs a restart; all other changes are in use", self._path)


def _by_name(policy: Policy) -> dict[str, object]:
    return {rule.name: rule for rule in policy.rules}
