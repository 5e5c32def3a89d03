"""The demo from its first line to its last. It imports the example, which must be importable.

Everything that the demo starts, and ends: a Temporal server, a page for traces, a worker.

The customers and humans at the desk: opens tickets, attends to chats, counts how they end.

Three calls that a tenant's data must survive, made for real.

The demo's worker: `orkestra worker` in a process of its own, which ends with the demo.

One trace, as far as it has arrived.
"""

import asyncio
import importlib.util
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TypeVar

from temporalio.api.common.v1 import Header, Payload, WorkflowExecution
from temporalio.api.workflowservice.v1 import SignalWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from orkestra.config import LangfuseSettings, OrkestraConfig, TemporalSettings, TenancySettings
from orkestra.dev.demo import APP, Options
from orkestra.devserver import DevServer
from orkestra.devserver.process import ReapedProcess
from orkestra.errors import OrkestraError, TenantError
from orkestra.temporal.client import create_temporal_client, start_workflow
from orkestra.temporal.health import check_temporal_health
from orkestra.temporal.manager import TemporalConnectionManager
from orkestra.tracing import trace_id_of
from support_desk.desk import (
    TASK_QUEUE,
    OpenTicket,
    answer,
    attend_chat,
    first_reaction,
    open_ticket,
)
from support_desk.models import Resolution, State, Ticket
from support_desk.tickets import FiledTicket, read_tickets
from support_desk.workflows import SupportTicket

if TYPE_CHECKING:
    from orkestra.dev.tracepage import TracePage
    from orkestra.otlp import TraceTree


_GRACE: Final = timedelta(seconds=20)
_SHOWN_LINES: Final = 15
_LOG: Final = "worker.log"
_SCRIPT: Final = f'cd "$0" && exec "$@" >{_LOG} 2>&1'
_OURS: Final = ("TEMPORAL_", "ORKESTRA_")
_OF_LANGFUSE: Final = ("LANGFUSE_", "OTEL_")


class DemoError(OrkestraError):
    """The demo could not be shown."""


class WorkerProcess:
    """`orkestra worker` in a process of its own.

    Args:
        folder: Where it runs and keeps its log.
        task_queue: What it polls.
        environment: Its whole environment.
    """

    def __init__(self, folder: Path, *, task_queue: str, environment: Mapping[str, str]) -> None:
        self.arguments: Final = ("worker", APP, "--task-queue", task_queue)
        self._log = folder / _LOG
        python = (sys.executable, "-m", "orkestra.cli", *self.arguments)
        self._process = ReapedProcess(
            ["/bin/sh", "-c", _SCRIPT, str(folder), *python],
            environment=environment,
            grace=_GRACE,
            echo=False,
        )

    @property
    def pid(self) -> int | None:
        """Number of its process, or None once it has ended."""
        return self._process.pid if self._process.poll() else None

    async def end(self) -> None:
        """Let it finish what it does and send its traces; does nothing once it has ended."""
        await self._process.end()

    def check(self) -> None:
        """Make sure that it runs.

        Raises:
            DemoError: It has ended.
        """
        if not self._process.poll():
            end = "\n".join(self.log().splitlines()[-_SHOWN_LINES:])
            msg = f"the worker ended with exit code {self._process.exit_code}, its log with:\n{end}"
            raise DemoError(msg)

    def log(self) -> str:
        """Its log up to now."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def worker_environment(
    folder: Path,
    *,
    examples: Path,
    address: str,
    langfuse: LangfuseSettings,
    is_langfuse_theirs: bool,
) -> dict[str, str]:
    """The environment of a worker that takes its settings from the demo alone.

    Args:
        folder: The worker's folder; an empty profile for Temporal is put there.
        examples: Folder that holds the example.
        address: Where the Temporal server is.
        langfuse: Where traces go.
        is_langfuse_theirs: Whether that comes from the user, whose other variables for Langfuse
            then hold, too.
    """
    profile = folder / "temporal.toml"
    profile.touch()
    hidden = (*_OURS, *(() if is_langfuse_theirs else _OF_LANGFUSE))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    path = [Path(part).absolute() for part in inherited.get("PYTHONPATH", "").split(":") if part]
    return {
        **inherited,
        "ORKESTRA_LANGFUSE": _langfuse_as_json(langfuse),
        "PYTHONPATH": ":".join(map(str, (examples, *path))),
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_CONFIG_FILE": str(profile),
    }


def _langfuse_as_json(langfuse: LangfuseSettings) -> str:
    values = langfuse.model_dump(mode="json", exclude_none=True)
    if langfuse.secret_key is not None:
        values["secret_key"] = langfuse.secret_key.get_secret_value()
    return json.dumps(values)


_Result = TypeVar("_Result")

_READY_WITHIN: Final = timedelta(seconds=60)
_LOOK: Final = timedelta(seconds=5)
_PAUSE: Final = 0.1


@dataclass(frozen=True)
class Stage:
    """What the demo runs on.

    Attributes:
        server: A Temporal server with its UI.
        manager: The connection of everybody but the worker.
        worker: The support desk.
        langfuse: Where the traces go.
        page: Takes and shows the traces where no Langfuse is configured; None where one is, or
            where the SDK of Langfuse is not installed.
    """

    server: DevServer
    manager: TemporalConnectionManager
    worker: WorkerProcess
    langfuse: LangfuseSettings
    page: "TracePage | None"

    def check(self) -> None:
        """Make sure that server and worker run.

        Raises:
            DemoError: One of them has ended.
        """
        if not self.server.is_running:
            msg = f"the Temporal server ended; its log ends with:\n{self.server.output}"
            raise DemoError(msg)
        self.worker.check()

    async def watched(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do some work as long as server and worker run.

        Args:
            work: What to do.

        Returns:
            Its result.

        Raises:
            DemoError: Server or worker have ended.
        """
        watching, working = asyncio.create_task(self._watch()), asyncio.create_task(work)
        try:
            await asyncio.wait((watching, working), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
            return working.result()
        finally:
            watching.cancel()
            working.cancel()
            await asyncio.gather(watching, working, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.check()
            await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def open_stage(options: Options, *, task_queue: str) -> AsyncGenerator[Stage]:
    """Start everything and wait until the worker polls; end everything afterwards.

    Args:
        options: What the demo was asked for.
        task_queue: The queue of the support desk.

    Raises:
        OrkestraError: Something could not be started.
    """
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="orkestra-demo-")))
        langfuse, page = options.langfuse, None
        if not langfuse.is_on and importlib.util.find_spec("langfuse"):
            from orkestra.dev.tracepage import TracePage  # noqa: PLC0415 - only where it is used

            page = stack.enter_context(TracePage(folder / "traces.db"))
            langfuse = page.settings()
        server = await stack.enter_async_context(DevServer(ui=True))
        environment = worker_environment(
            folder,
            examples=options.examples,
            address=server.address,
            langfuse=langfuse,
            is_langfuse_theirs=options.langfuse.is_on,
        )
        worker = WorkerProcess(folder, task_queue=task_queue, environment=environment)
        stack.push_async_callback(worker.end)
        config = OrkestraConfig(
            temporal=TemporalSettings(address=server.address), langfuse=langfuse
        )
        manager = await stack.enter_async_context(TemporalConnectionManager(config))
        stage = Stage(server, manager, worker, langfuse, page)
        await _until_polled(stage, task_queue)
        yield stage


async def _until_polled(stage: Stage, task_queue: str) -> None:
    operator = await Client.connect(stage.server.address)
    try:
        async with asyncio.timeout(_READY_WITHIN.total_seconds()):
            while not await check_temporal_health(operator, timeout=_LOOK, task_queue=task_queue):
                stage.check()
                await asyncio.sleep(_PAUSE)
    except TimeoutError:
        seconds = _READY_WITHIN.total_seconds()
        msg = f"the worker did not poll task queue {task_queue!r} within {seconds:.0f} s"
        raise DemoError(msg) from None


IN_FLIGHT: Final = 16
"""Tickets that are worked on at once, however many there are."""

_PATIENCE: Final = 120.0
"""Seconds that a ticket may take beyond the time that it waits for a human."""

_BUSINESS_FAILURES: Final = frozenset({"UnknownCustomer"})


@dataclass
class Tally:
    """How the tickets of one tenant, or of all, ended."""

    started: int = 0
    resolutions: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    seconds: list[float] = field(default_factory=list[float])

    @property
    def escalated(self) -> int:
        """Tickets that nobody answered in time."""
        return self.resolutions[Resolution.ESCALATED]

    @property
    def completed(self) -> int:
        """Tickets that were answered or closed."""
        return self.resolutions.total() - self.escalated

    @property
    def failed(self) -> int:
        """Tickets whose workflow failed."""
        return self.failures.total()

    @property
    def unexpected_failures(self) -> Mapping[str, int]:
        """Failures that the desk does not provide for, by their types."""
        return {k: n for k, n in self.failures.items() if k not in _BUSINESS_FAILURES}

    def percentile(self, share: float) -> float | None:
        """The time within which that share of the tickets ended, in seconds."""
        if not self.seconds:
            return None
        return sorted(self.seconds)[math.ceil(share * len(self.seconds)) - 1]

    def as_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return {
            "started": self.started,
            "completed": self.completed,
            "escalated": self.escalated,
            "failed": self.failed,
            "p50_seconds": self.percentile(0.5),
            "p95_seconds": self.percentile(0.95),
            "resolutions": dict(self.resolutions),
            "failures": dict(self.failures),
        }

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(
            self.started + other.started,
            self.resolutions + other.resolutions,
            self.failures + other.failures,
            self.seconds + other.seconds,
        )


class Traffic:
    """Works tickets off, a bounded number at a time."""

    def __init__(self, stage: Stage) -> None:
        self.tallies: dict[str, Tally] = {}
        self._stage = stage

    async def run(self, file: Path, *, on_end: Callable[[], None]) -> None:
        """Work off all tickets.

        Args:
            file: The tickets; they are read as they are needed.
            on_end: Called after each.

        Raises:
            DemoError: A ticket did not end.
        """
        tickets = read_tickets(file)
        desks = [asyncio.create_task(self._work_off(tickets, on_end)) for _ in range(IN_FLIGHT)]
        try:
            await asyncio.gather(*desks)
        finally:
            for desk in desks:
                desk.cancel()
            await asyncio.gather(*desks, return_exceptions=True)

    async def _work_off(self, tickets: Iterator[FiledTicket], on_end: Callable[[], None]) -> None:
        for filed in tickets:
            patience = filed.ticket.answer_within_seconds + _PATIENCE
            try:
                async with asyncio.timeout(patience):
                    await self._serve(filed)
            except TimeoutError:
                which = f"ticket {filed.ticket.id!r} of {filed.tenant!r}"
                msg = f"{which} did not end within {patience:.0f} s: --workers-log may show why"
                raise DemoError(msg) from None
            on_end()

    async def _serve(self, filed: FiledTicket) -> None:
        tally = self.tallies.setdefault(filed.tenant, Tally())
        client = await create_temporal_client(manager=self._stage.manager, tenant=filed.tenant)
        opened = time.monotonic()
        ticket = await open_ticket(client, filed.ticket)
        tally.started += 1
        if filed.ticket.channel == "chat":
            await attend_chat(ticket, filed.follow_up)
        await _await_end(ticket, tally)
        tally.seconds.append(time.monotonic() - opened)


async def _await_end(ticket: OpenTicket, tally: Tally) -> None:
    try:
        outcome = await ticket.result()
    except WorkflowFailureError as error:
        tally.failures[_kind(error)] += 1
    else:
        tally.resolutions[outcome.resolution] += 1


def _kind(error: WorkflowFailureError) -> str:
    cause = error.cause
    if isinstance(cause, ActivityError) and cause.cause is not None:
        cause = cause.cause
    return (isinstance(cause, ApplicationError) and cause.type) or type(cause).__name__


_OWNER: Final = "acme"
_INTRUDER: Final = "globex"
_TICKET: Final = Ticket(
    id="open",
    customer="dana.whitfield@fabrikam.example",
    subject="Something rattles",
    body="It rattles.",
    answer_within_seconds=120,
)

_DROPPED: Final = "Dropped signal"


@dataclass(frozen=True)
class Refusal:
    """What became of a call that must not work."""

    call: str
    refused: bool
    error: str
    """What the caller, or the worker's log, was told."""
    proof: str
    """What shows that nothing happened."""

    def as_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return asdict(self)


@dataclass(frozen=True)
class Attacks:
    """What became of the calls, and the trace of the ticket that they were aimed at."""

    refusals: tuple[Refusal, ...]
    trace_id: str


async def try_forbidden_calls(stage: Stage) -> Attacks:
    """Open a ticket of one tenant and attack it from outside; then answer it in order."""
    owner = await create_temporal_client(manager=stage.manager, tenant=_OWNER)
    handle = await open_ticket(owner, _TICKET)
    await first_reaction(handle)
    refusals = (
        await _start_without_tenant(stage),
        await _read_another_tenants_ticket(stage, handle),
        await _forge_a_signal(stage, handle),
    )
    run = handle.first_execution_run_id or ""
    return Attacks(refusals, trace_id_of(owner.namespace, handle.id, run))


async def _start_without_tenant(stage: Stage) -> Refusal:
    client = await create_temporal_client(manager=stage.manager)
    try:
        await start_workflow(client, SupportTicket.run, _TICKET, task_queue=TASK_QUEUE)
    except TenantError as error:
        return _refused("Start a ticket without a tenant", error, "nothing was sent")
    return _allowed("Start a ticket without a tenant")


async def _read_another_tenants_ticket(stage: Stage, theirs: OpenTicket) -> Refusal:
    call = f"{_INTRUDER} asks for the status of {_OWNER}'s ticket {theirs.id!r}"
    intruder = await create_temporal_client(manager=stage.manager, tenant=_INTRUDER)
    try:
        await intruder.get_workflow_handle_for(SupportTicket.run, theirs.id).query(
            SupportTicket.status
        )
    except TenantError as error:
        return _refused(call, error, "nothing was sent")
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return _refused(call, error, f"{_INTRUDER} cannot even name it")
        raise
    return _allowed(call)


async def _forge_a_signal(stage: Stage, handle: OpenTicket) -> Refusal:
    """Close the ticket past Orkestra, as a script with access to the server could."""
    call = f"A script signals 'close' to {handle.id!r} past Orkestra, as {_INTRUDER}"
    await _signal_raw(stage.server.address, handle)
    status = await handle.query(SupportTicket.status)
    if status.state is not State.WAITING_FOR_HUMAN:
        return _allowed(call)
    await answer(handle, "Tighten the screw.")
    outcome = await handle.result()
    log = stage.worker.log().splitlines()
    logged = next((line for line in log if _DROPPED in line and handle.id in line), "")
    return Refusal(
        call,
        refused=outcome.resolution is Resolution.ANSWERED_BY_HUMAN and bool(logged),
        error=f"in the worker's log: {_sentence(logged[logged.find(_DROPPED) :])}",
        proof="the server took it, the worker dropped it: the ticket stayed open until a human"
        " answered it",
    )


def _sentence(logged: str) -> str:
    """The message of a record alone, whether the log is text or JSON."""
    return logged.partition(" ({")[0].partition('"')[0]


async def _signal_raw(address: str, handle: OpenTicket) -> None:
    bare = await Client.connect(address)
    forged = Payload(metadata={"encoding": b"json/plain"}, data=f'"{_INTRUDER}"'.encode())
    await bare.workflow_service.signal_workflow_execution(
        SignalWorkflowExecutionRequest(
            namespace=bare.namespace,
            workflow_execution=WorkflowExecution(workflow_id=handle.id),
            signal_name="close",
            header=Header(fields={TenancySettings().header: forged}),
        )
    )


def _refused(call: str, error: Exception, proof: str) -> Refusal:
    return Refusal(call, refused=True, error=f"{type(error).__name__}: {error}", proof=proof)


def _allowed(call: str) -> Refusal:
    return Refusal(call, refused=False, error="", proof="it was carried out")


@dataclass(frozen=True)
class Trace:
    """What arrived of a trace.

    Attributes:
        id: Its id, as 32 hexadecimal digits.
        roots: The spans whose parents are not there, with what hangs under them.
    """

    id: str
    roots: Sequence["TraceTree"]

    @property
    def is_whole(self) -> bool:
        """Whether it has one root, which is one by its own account."""
        return len(self.roots) == 1 and self.roots[0].span.parent_id is None

    def as_json(self) -> dict[str, Any]:
        """All of it, for scripts."""
        return {
            "id": self.id,
            "spans": sum(1 for root in self.roots for _ in root.walk()),
            "roots": [_tree_as_json(root) for root in self.roots],
        }


def _tree_as_json(tree: "TraceTree") -> dict[str, Any]:
    return {
        "name": tree.span.name,
        "type": tree.span.type,
        "milliseconds": tree.duration / timedelta(milliseconds=1),
        "level": tree.span.level,
        "message": tree.span.status_message,
        "children": [_tree_as_json(child) for child in tree.children],
    }


def branches(
    tree: "TraceTree", branch: str = "", indent: str = ""
) -> Iterator[tuple["TraceTree", str]]:
    """Each span with the lines to draw before it."""
    yield tree, branch
    for child in tree.children:
        is_last = child is tree.children[-1]
        deeper = indent + ("   " if is_last else "│  ")
        yield from branches(child, indent + ("└─ " if is_last else "├─ "), deeper)


def note_on(tree: "TraceTree") -> str:
    """What is worth saying of a span beside its name and duration."""
    span = tree.span
    if span.level != "DEFAULT":
        return span.status_message or span.level
    if span.type == "generation":
        model = span.attributes.get("langfuse.observation.model.name", "")
        return f"generation by {model}"
    attempt = span.metadata.get("attempt", 1)
    return f"attempt {attempt}" if attempt != 1 else ""
