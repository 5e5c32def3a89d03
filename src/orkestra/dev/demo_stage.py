"""Everything that the demo runs: a server, a worker, tickets, and calls that must be refused.

`open_stage()` starts a Temporal server, a trace page and the worker of the support desk, and ends
them. On that stage `Traffic` plays the customers and the staff, and `try_forbidden_calls()` attacks
a ticket for real. `support_desk` must be importable.
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
from orkestra.devserver import DevServer
from orkestra.devserver.process import ReapedProcess
from orkestra.errors import OrkestraError, TenantError
from orkestra.langfuse import attribute_names as names
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
_SHOWN_LOG_LINES: Final = 15
_LOG: Final = "worker.log"
_SCRIPT: Final = f'cd "$0" && exec "$@" >{_LOG} 2>&1'
_OWN_VARIABLES: Final = ("TEMPORAL_", "ORKESTRA_")
_LANGFUSE_VARIABLES: Final = ("LANGFUSE_", "OTEL_")


@dataclass(frozen=True)
class DemoOptions:
    """Options of the demo; `desk` is the folder of the package `support_desk`."""

    langfuse: LangfuseSettings
    tickets: Path
    desk: Path
    keep: bool
    workers_log: bool
    as_json: bool


class DemoError(OrkestraError):
    """The demo could not be shown."""


class DeskProcess:
    """`orkestra worker support_desk` in a process of its own, which ends with the demo."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str]) -> None:
        self.arguments: Final = ("worker", "support_desk", "--task-queue", TASK_QUEUE)
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
        """ID of the process, or None after its end."""
        return self._process.pid if self._process.poll() else None

    async def end(self) -> None:
        """Let it finish its tasks and send its spans; does nothing after its end."""
        await self._process.end()

    def check(self) -> None:
        """Raise DemoError if it has ended."""
        if not self._process.poll():
            end = "\n".join(self.log().splitlines()[-_SHOWN_LOG_LINES:])
            code = self._process.exit_code
            raise DemoError(f"the worker exited with code {code}; its log ends with:\n{end}")

    def log(self) -> str:
        """Return the log so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _worker_environment(
    folder: Path, options: DemoOptions, *, address: str, langfuse: LangfuseSettings
) -> dict[str, str]:
    """Make the environment of the worker, whose settings are the demo's alone."""
    profile = folder / "temporal.toml"
    profile.touch()  # an empty profile, in place of the user's
    # The user's other variables for Langfuse apply if the traces go to the user's Langfuse.
    hidden = (*_OWN_VARIABLES, *(() if options.langfuse.is_on else _LANGFUSE_VARIABLES))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    path = [Path(part).absolute() for part in inherited.get("PYTHONPATH", "").split(":") if part]
    values = langfuse.model_dump(mode="json", exclude_none=True)
    if langfuse.secret_key is not None:
        values["secret_key"] = langfuse.secret_key.get_secret_value()
    return {
        **inherited,
        "ORKESTRA_LANGFUSE": json.dumps(values),
        "PYTHONPATH": ":".join(map(str, (options.desk.parent, *path))),
        "TEMPORAL_ADDRESS": address,
        "TEMPORAL_CONFIG_FILE": str(profile),
    }


_Result = TypeVar("_Result")

_READY_TIMEOUT: Final = timedelta(seconds=60)
_HEALTH_TIMEOUT: Final = timedelta(seconds=5)
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True)
class DemoStage:
    """Server, clients, worker and traces of the demo.

    `page` is None if a Langfuse is configured or its SDK is not installed.
    """

    server: DevServer
    manager: TemporalConnectionManager
    worker: DeskProcess
    langfuse: LangfuseSettings
    page: "TracePage | None"

    def check(self) -> None:
        """Raise DemoError if the server or the worker has ended."""
        if not self.server.is_running:
            msg = f"the Temporal server exited; its log ends with:\n{self.server.output}"
            raise DemoError(msg)
        self.worker.check()

    async def watched(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Run some work; raise DemoError when the server or the worker ends before it."""
        watching, working = asyncio.create_task(self._watch()), asyncio.create_task(work)
        try:
            await asyncio.wait((watching, working), return_when=asyncio.FIRST_COMPLETED)
            # First: the end of the server explains a failure of the work.
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
            await asyncio.sleep(_POLL_SECONDS)


@asynccontextmanager
async def open_stage(options: DemoOptions) -> AsyncGenerator[DemoStage]:
    """Start everything and wait until the worker polls; stop everything at the end."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="orkestra-demo-")))
        langfuse, page = options.langfuse, None
        if not langfuse.is_on and importlib.util.find_spec("langfuse"):
            from orkestra.dev.tracepage import TracePage  # noqa: PLC0415 - not always needed

            page = stack.enter_context(TracePage(folder / "traces.db"))
            langfuse = page.settings()
        server = await stack.enter_async_context(DevServer(ui=True))
        environment = _worker_environment(
            folder, options, address=server.address, langfuse=langfuse
        )
        worker = DeskProcess(folder, environment=environment)
        stack.push_async_callback(worker.end)
        config = OrkestraConfig(
            temporal=TemporalSettings(address=server.address), langfuse=langfuse
        )
        manager = await stack.enter_async_context(TemporalConnectionManager(config))
        stage = DemoStage(server, manager, worker, langfuse, page)
        # Otherwise the first tickets would wait for the worker, and their times show it.
        await _wait_for_worker(stage)
        yield stage


async def _wait_for_worker(stage: DemoStage) -> None:
    operator = await Client.connect(stage.server.address)
    seconds = _READY_TIMEOUT.total_seconds()
    try:
        async with asyncio.timeout(seconds):
            while not await check_temporal_health(
                operator, timeout=_HEALTH_TIMEOUT, task_queue=TASK_QUEUE
            ):
                stage.check()
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        msg = f"the worker did not poll task queue {TASK_QUEUE!r} within {seconds:.0f} s"
        raise DemoError(msg) from None


_CONCURRENT_TICKETS: Final = 16
_TICKET_SECONDS: Final = 120.0
"""Time limit of a ticket, beside the time that it waits for a human."""

_EXPECTED_FAILURES: Final = frozenset({"UnknownCustomer"})


@dataclass
class Tally:
    """Counts and durations of the tickets of one tenant, or of all."""

    started: int = 0
    resolutions: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    seconds: list[float] = field(default_factory=list[float])

    @property
    def escalated(self) -> int:
        """Number of tickets that were not answered in time."""
        return self.resolutions[Resolution.ESCALATED]

    @property
    def completed(self) -> int:
        """Number of tickets that were answered or closed."""
        return self.resolutions.total() - self.escalated

    @property
    def failed(self) -> int:
        """Number of tickets whose workflow failed."""
        return self.failures.total()

    @property
    def unexpected_failures(self) -> Mapping[str, int]:
        """Number of failures by type, without those that the desk raises on purpose."""
        return {k: n for k, n in self.failures.items() if k not in _EXPECTED_FAILURES}

    def percentile(self, share: float) -> float | None:
        """Return the seconds within which this share of the tickets ended."""
        if not self.seconds:
            return None
        return sorted(self.seconds)[math.ceil(share * len(self.seconds)) - 1]

    def as_json(self) -> dict[str, Any]:
        """Return the values for JSON."""
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
    """Customers and staff of the desk, with a limited number of tickets at a time."""

    def __init__(self, stage: DemoStage) -> None:
        self.tallies: dict[str, Tally] = {}
        self._stage = stage

    async def run(self, file: Path, *, on_end: Callable[[], None]) -> None:
        """Process all tickets of the file; call `on_end` after each."""
        tickets = read_tickets(file)  # read as they are needed, by all tasks from one iterator
        tasks = [
            asyncio.create_task(self._process(tickets, on_end)) for _ in range(_CONCURRENT_TICKETS)
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _process(self, tickets: Iterator[FiledTicket], on_end: Callable[[], None]) -> None:
        for filed in tickets:
            seconds = filed.ticket.answer_within_seconds + _TICKET_SECONDS
            try:
                async with asyncio.timeout(seconds):
                    await self._serve(filed)
            except TimeoutError:
                ticket = f"ticket {filed.ticket.id!r} of {filed.tenant!r}"
                msg = f"{ticket} did not end within {seconds:.0f} s: --workers-log may show why"
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
        tally.failures[_failure_type(error)] += 1
    else:
        tally.resolutions[outcome.resolution] += 1


def _failure_type(error: WorkflowFailureError) -> str:
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
class Attack:
    """Outcome of a call that must be refused, with the error and the proof of its effect."""

    call: str
    refused: bool
    error: str
    proof: str

    def as_json(self) -> dict[str, Any]:
        """Return the values for JSON."""
        return asdict(self)


async def try_forbidden_calls(stage: DemoStage) -> tuple[list[Attack], str]:
    """Open a ticket of one tenant and attack it; return the outcomes and its trace ID."""
    owner = await create_temporal_client(manager=stage.manager, tenant=_OWNER)
    # A new ticket that waits for a human, so that it is open during the attacks.
    handle = await open_ticket(owner, _TICKET)
    await first_reaction(handle)
    attacks = [
        await _start_without_tenant(stage),
        await _query_from_another_tenant(stage, handle),
        await _forge_a_signal(stage, handle),
    ]
    run = handle.first_execution_run_id or ""
    return attacks, trace_id_of(owner.namespace, handle.id, run)


async def _start_without_tenant(stage: DemoStage) -> Attack:
    call = "Start a ticket without a tenant"
    client = await create_temporal_client(manager=stage.manager)
    try:
        await start_workflow(client, SupportTicket.run, _TICKET, task_queue=TASK_QUEUE)
    except TenantError as error:
        return _refused(call, error, "nothing was sent")
    return _allowed(call)


async def _query_from_another_tenant(stage: DemoStage, ticket: OpenTicket) -> Attack:
    call = f"{_INTRUDER} queries the status of {_OWNER}'s ticket {ticket.id!r}"
    intruder = await create_temporal_client(manager=stage.manager, tenant=_INTRUDER)
    try:
        await intruder.get_workflow_handle_for(SupportTicket.run, ticket.id).query(
            SupportTicket.status
        )
    except TenantError as error:
        return _refused(call, error, "nothing was sent")
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return _refused(call, error, f"the ID does not exist for {_INTRUDER}")
        raise
    return _allowed(call)


async def _forge_a_signal(stage: DemoStage, handle: OpenTicket) -> Attack:
    """Send a signal without Orkestra, as a script with access to the server could."""
    call = f"A script without Orkestra signals 'close' to {handle.id!r} as {_INTRUDER}"
    # T14: a worker drops such a signal: failing would let anyone end another tenant's workflow.
    await _signal_raw(stage.server.address, handle)
    # A query is answered after the events before it, so the signal has been handled.
    status = await handle.query(SupportTicket.status)
    if status.state is not State.WAITING_FOR_HUMAN:
        return _allowed(call)
    await answer(handle, "Tighten the screw.")
    outcome = await handle.result()
    log = stage.worker.log().splitlines()
    logged = next((line for line in log if _DROPPED in line and handle.id in line), "")
    return Attack(
        call,
        refused=outcome.resolution is Resolution.ANSWERED_BY_HUMAN and bool(logged),
        error=f"in the worker's log: {_sentence(logged[logged.find(_DROPPED) :])}",
        proof="the server accepted the signal and the worker dropped it: the ticket stayed open"
        " until a human answered it",
    )


def _sentence(logged: str) -> str:
    """Return the message of a log line, which is text or JSON."""
    return logged.partition(" ({")[0].partition('"')[0]


async def _signal_raw(address: str, handle: OpenTicket) -> None:
    # Without the plugin, so nothing on this side refuses the call.
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


def _refused(call: str, error: Exception, proof: str) -> Attack:
    return Attack(call, refused=True, error=f"{type(error).__name__}: {error}", proof=proof)


def _allowed(call: str) -> Attack:
    return Attack(call, refused=False, error="", proof="the call was carried out")


@dataclass(frozen=True)
class DemoTrace:
    """The received part of a trace: its spans without a parent, with their children."""

    id: str
    roots: Sequence["TraceTree"]

    @property
    def is_whole(self) -> bool:
        """True if the trace has a single root, which never had a parent."""
        return len(self.roots) == 1 and self.roots[0].span.parent_id is None

    def as_json(self) -> dict[str, Any]:
        """Return the values for JSON."""
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


def note_on(tree: "TraceTree") -> str:
    """Return the facts to print after the name and the duration of a span."""
    span = tree.span
    if span.level != "DEFAULT":
        return span.status_message or span.level
    if span.type == "generation":
        model = span.attributes.get(names.MODEL, "")
        return f"generation by {model}"
    attempt = span.metadata.get("attempt", 1)
    return f"attempt {attempt}" if attempt != 1 else ""
