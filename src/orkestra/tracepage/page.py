"""`TracePage`: a server in a thread, in place of a Langfuse, for development."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from orkestra.config import LangfuseSettings
from orkestra.errors import MissingExtraError

try:
    import uvicorn
    from starlette.applications import Starlette
except ImportError as error:
    raise MissingExtraError("the local trace page", "cli") from error

from orkestra.otlp import TraceTree, traces_of
from orkestra.tracepage.gate import Gate
from orkestra.tracepage.intake import Intake
from orkestra.tracepage.live import Changes
from orkestra.tracepage.queries import received_spans
from orkestra.tracepage.store import Retention, TraceStore
from orkestra.tracepage.views import Views

_HOST: Final = "127.0.0.1"
_PATIENCE: Final = 2


class TracePage:
    """Takes spans as Langfuse does, keeps them in a file and shows them to a browser.

    It can be reached from this machine only, and everybody on this machine can read it: it is for
    development. Production is Langfuse.

    Example:
        ```python
        with TracePage(Path("traces.db")) as page:
            config = OrkestraConfig(langfuse=page.settings())
            print(f"look at {page.url}")
            ...
        ```
    """

    def __init__(
        self,
        database: Path,
        *,
        port: int = 0,
        public_key: str = "pk-lf-local",
        secret_key: str = "sk-lf-local",  # noqa: S107 - everybody knows it
        retention: Retention | None = None,
    ) -> None:
        """Choose where; nothing listens yet.

        Args:
            database: The file, made if there is none; its directory must exist.
            port: Where to listen on 127.0.0.1; 0 takes a free port.
            public_key: The key that applications use.
            secret_key: The secret of the key.
            retention: How much is kept.
        """
        self._database = database
        self._port = port
        self._keys = {"public_key": public_key, "secret_key": secret_key}
        self._retention = retention
        self._running: _Running | None = None

    def __enter__(self) -> Self:
        """Start to listen."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.close()

    @property
    def url(self) -> str:
        """Where the page is, and base URL for `langfuse.base_url`."""
        return f"http://{_HOST}:{self._port}"

    @property
    def environment(self) -> Mapping[str, str]:
        """Variables that make an application send its traces here."""
        return {
            "LANGFUSE_BASE_URL": self.url,
            "LANGFUSE_PUBLIC_KEY": self._keys["public_key"],
            "LANGFUSE_SECRET_KEY": self._keys["secret_key"],
        }

    def settings(self, **others: Any) -> LangfuseSettings:
        """Settings that send here.

        Args:
            others: More settings.
        """
        return LangfuseSettings.model_validate({**self._keys, "base_url": self.url, **others})

    def trace(self, trace_id: str) -> Sequence[TraceTree]:
        """What was received of a trace, as trees; a complete trace has one root."""
        return traces_of(received_spans(self._database, trace_id)).get(trace_id, [])

    def start(self) -> None:
        """Open the database and listen.

        Raises:
            ConfigurationError: The file is no database of traces.
            OSError: The port cannot be listened on.
        """
        listener = socket.create_server((_HOST, self._port))
        self._port = listener.getsockname()[1]
        try:
            self._running = _Running(self._database, listener, self._keys, self._retention)
        except BaseException:
            listener.close()
            raise

    def close(self) -> None:
        """Stop to listen, write what was taken and close the database; may be called again."""
        running, self._running = self._running, None
        if running is not None:
            running.end()


class _Running:
    """The server, the thread that it runs in and the store that it fills."""

    def __init__(
        self,
        database: Path,
        listener: socket.socket,
        keys: Mapping[str, str],
        retention: Retention | None,
    ) -> None:
        self._changes = Changes()
        self._store = TraceStore(database, retention=retention, on_change=self._publish)
        self._loop = asyncio.new_event_loop()
        port = listener.getsockname()[1]
        routes = [*Intake(self._store, **keys).routes, *Views(database, self._changes).routes]
        hosts = [f"{name}:{port}" for name in (_HOST, "localhost")]
        config = uvicorn.Config(
            Gate(Starlette(routes=routes), hosts=hosts),
            access_log=False,
            lifespan="off",
            log_config=None,
            loop="asyncio",
            server_header=False,
            timeout_graceful_shutdown=_PATIENCE,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="orkestra-trace-page", daemon=True
        )
        self._thread.start()

    def end(self) -> None:
        self._server.should_exit = True
        self._call(self._changes.close)
        self._thread.join()
        self._store.close()

    def _run(self, listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[listener]))

    def _publish(self, trace_ids: Sequence[str]) -> None:
        self._call(self._changes.publish, trace_ids)

    def _call(self, *what: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(*what)
