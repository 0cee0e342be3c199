"""EnvoyWatch: hand over a folder's configuration each time that one of its files changes. It knows no server."""

from __future__ import annotations

import os

from ratekeeper.errors import PolicyError
from ratekeeper.policy.at_rest import open_for_writing
from ratekeeper.policy.watch import Watch, status_of
from ratekeeper.service.envoy.load import config_files, load_envoy_config
from ratekeeper.service.envoy.model import EnvoyConfig


class EnvoyWatch(Watch[EnvoyConfig]):
    """A watch over a folder of envoyproxy/ratelimit's files. A folder with mistakes changes nothing."""

    def _status(self) -> object:
        return [(path, status_of(path)) for path in self._files()]

    def _written(self) -> bool | None:
        answers = [open_for_writing(path) for path in self._files()]
        return True if True in answers else None if None in answers else False

    def _read(self) -> tuple[str, EnvoyConfig | PolicyError]:
        try:
            return str(self._status()), load_envoy_config(self._path)
        except PolicyError as error:
            return str(error), error

    def _changes(self, before: EnvoyConfig, after: EnvoyConfig) -> list[str]:
        old, new = before.domains, after.domains
        of_domains = {
            "added": [name for name in new if name not in old],
            "removed": [name for name in old if name not in new],
            "changed": [name for name in new if name in old and new[name] != old[name]],
        }
        return [f"{how} domains {', '.join(map(repr, names))}" for how, names in of_domains.items() if names]

    def _described(self, policy: EnvoyConfig) -> str:
        return f"domains {', '.join(map(repr, policy.domains))}"

    def _files(self) -> list[str]:
        try:
            return [os.fspath(path) for path in config_files(self._path)]
        except PolicyError:
            return []
