"""EnvoyWatch: hand over a folder's configuration each time that one of its files changes. It knows no server."""

from __future__ import annotations

import os

from ratekeeper.errors import PolicyError
from ratekeeper.policy.at_rest import open_for_writing
from ratekeeper.policy.watch import Watch, differences, listed, status_of
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
        return [f"{how} domains {names}" for how, names in differences(before.domains, after.domains).items()]

    def _described(self, policy: EnvoyConfig) -> str:
        return f"domains {listed(policy.domains)}"

    def _files(self) -> list[str]:
        try:
            return [os.fspath(path) for path in config_files(self._path)]
        except PolicyError:
            return []
