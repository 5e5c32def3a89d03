"""The ledger that activities write to: how often each ran, and what came of it."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

_KEY = "(workflow TEXT, run TEXT, activity TEXT"


class Ledger:
    """A database that several processes write to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as ledger, ledger:
            ledger.execute("PRAGMA journal_mode = WAL")
            ledger.execute(f"CREATE TABLE runs {_KEY})")
            ledger.execute(f"CREATE TABLE effects {_KEY}, PRIMARY KEY (workflow, run, activity))")

    @property
    def environment(self) -> Mapping[str, str]:
        return {"LEDGER": str(self.path)}

    def count(self, table: str) -> int:
        with closing(sqlite3.connect(self.path, timeout=30)) as ledger:
            [found] = ledger.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - ours
            return int(found)
