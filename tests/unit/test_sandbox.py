"""The sandbox that costs less: the SDK's own rules, modules and failures."""

import asyncio
import dataclasses
import importlib
import os
import subprocess
import sys
import threading
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.util import spec_from_file_location
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from temporalio.worker import UnsandboxedWorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner
from temporalio.worker.workflow_sandbox._runner import _Instance

from orkestra.config import SandboxSettings
from orkestra.temporal._sdk import is_known_sandbox
from orkestra.temporal.sandbox import CachingSandboxRunner, _CodeCache, cache_code, sandbox_runner
from tests.support.sandbox_flows import (
    FLOWS,
    REFUSED,
    refusing,
    that_fails,
    that_reloads,
    that_the_process_loads_lazily,
)
from tests.support.sandboxes import START, Desk, instance_of, outcome, result_of, runner_of


@pytest.mark.parametrize("make", FLOWS, ids=lambda make: make.__name__.replace("_", " "))
async def test_code_does_the_same_as_in_the_sdks_own_sandbox(desk, monkeypatch, make):
    flow = make(desk)
    runner = runner_of(flow)
    ours = [await outcome(flow, runner), await outcome(flow, runner)]
    monkeypatch.setattr(sys, "meta_path", without_cached_code())
    theirs = await outcome(flow, SandboxedWorkflowRunner(restrictions=runner.restrictions))
    assert ours == [theirs, theirs]


def state_of(instance: Any, name: str) -> ModuleType:
    """The module that a run has for itself."""
    return instance.importer.new_modules[name]


async def test_each_run_has_state_of_its_own_in_threads_of_their_own_too(desk):
    desk.write({"tally/__init__": "", "tally/state": "seen = []\ncount = 0"})
    body = "state.count += 1\nstate.seen.append(state.count)\nreturn [state.seen, state.count]"
    flow = desk.flow("tally/flow", body, "from tally import state")
    runner = runner_of(flow)

    async def create() -> Any:
        return instance_of(flow, runner)

    def run() -> tuple[Any, ModuleType]:
        instance = asyncio.run(create())
        return result_of(instance.activate(START)), state_of(instance, "tally.state")

    runs = await asyncio.gather(*(asyncio.to_thread(run) for _ in range(24)))
    assert [result for result, _ in runs] == [[[1], 1]] * 24
    assert len({id(state.seen) for _, state in runs}) == 24
    assert sys.modules["tally.state"].seen == []


async def test_an_edited_file_takes_effect_after_a_reload(desk, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    flow = desk.flow("edited", "return N", "N = 1")
    runner = runner_of(flow)
    assert await outcome(flow, runner) == (1, [])
    desk.flow("edited", "return N", "N = 2  # longer")
    assert await outcome(flow, runner) == (1, [])
    (desk.root / "edited.py").unlink()
    assert await outcome(flow, runner) == (1, [])
    desk.flow("edited", "return N", "N = 3  # longer still")
    flow = importlib.reload(sys.modules["edited"]).Flow
    assert await outcome(flow, runner_of(flow)) == (3, [])


async def test_a_reload_within_a_run_reads_the_file(desk):
    flow = that_reloads(desk)
    runner = runner_of(flow)
    assert await outcome(flow, runner) == ([0], [])
    desk.write({"anew": "N = [22]  # longer"})
    assert await outcome(flow, runner) == ([22], [])


async def test_what_the_process_loads_lazily_is_not_loaded_for_it_by_a_sandbox(desk):
    flow = that_the_process_loads_lazily(desk)
    await outcome(flow, runner_of(flow))
    assert type(sys.modules["whom"]) is not ModuleType


async def test_a_failure_shows_the_line_of_source(desk):
    flow = that_fails(desk)
    failure, _ = await outcome(flow, runner_of(flow))
    assert "# the line of source" in failure
    assert f"{desk.root / 'deep.py'}" in failure
    assert "line 2, in fall" in failure


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_not_deterministic_is_refused(desk, what):
    flow = refusing(what)(desk)
    failure, _ = await outcome(flow, runner_of(flow))
    assert 'type: "RestrictedWorkflowAccessError"' in failure


class Watching(MetaPathFinder):
    """Notes who is looked for, and finds nobody."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def find_spec(self, fullname: str, *_: Any) -> None:
        self.asked.append(fullname)


def without_cached_code() -> list[Any]:
    return [finder for finder in sys.meta_path if type(finder) is not _CodeCache]


async def test_finders_before_the_path_are_called_for_each_run(desk, monkeypatch):
    flow = desk.flow("watched", "return 1")
    runner = runner_of(flow)
    watching = Watching()
    monkeypatch.setattr(sys, "meta_path", [watching, *without_cached_code()])
    cache_code.__wrapped__()
    for _ in range(2):
        assert await outcome(flow, runner) == (1, [])
    assert watching.asked.count("watched") == 2


class FindingFar(MetaPathFinder):
    """Finds a package whose modules lie in another folder, as some editable installs do."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def find_spec(self, fullname: str, *_: Any) -> Any:
        if fullname == "far":
            elsewhere = [str(self._desk.root / "elsewhere")]
            path = self._desk.root / "near_by.py"
            return spec_from_file_location("far", path, submodule_search_locations=elsewhere)
        return None


async def test_a_package_that_only_its_own_finder_finds_is_found_by_it(desk, monkeypatch):
    cache_code()
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, FindingFar(desk)])
    desk.write({"near_by": "", "elsewhere/deep": "X = 1"})
    body = "import sys\nreturn [deep.X, len(sys.modules['far'].__path__)]"
    flow = desk.flow("seeks", body, "from far import deep")
    assert await outcome(flow, runner_of(flow)) == ([1, 1], [])


async def test_code_can_be_cached_while_a_sandbox_runs(desk, monkeypatch):
    flow = desk.flow("begun", "return 1")
    runner = runner_of(flow)
    monkeypatch.setattr(sys, "meta_path", without_cached_code())
    with instance_of(flow, runner).importer.applied():
        cache_code.__wrapped__()
    (desk.root / "begun.py").touch()
    instance = instance_of(flow, runner)
    assert type(state_of(instance, "begun").__loader__).__name__ == "_Loader"
    assert state_of(instance, "begun") is not sys.modules["begun"]


async def test_outside_of_sandboxes_modules_load_as_usual(desk):
    flow = desk.flow("outside", "return 1")
    await outcome(flow, runner_of(flow))
    [kept] = [finder for finder in sys.meta_path if type(finder) is _CodeCache]
    assert kept.find_spec("outside", None) is None
    (desk.root / "outside.py").write_text("N = 5  # and longer")
    assert importlib.reload(sys.modules["outside"]).N == 5
    del sys.modules["outside"]
    assert type(importlib.import_module("outside").__loader__).__name__ == "SourceFileLoader"


async def test_the_running_thread_is_known_while_contexts_are_read(desk):
    flow = desk.flow("threaded", "workflow.extern_functions()['look']()\nreturn 1")
    seen: list[Any] = []

    def look() -> None:
        seen.append(instance.get_serialization_context(None))
        seen.append(instance.get_thread_id())

    instance = instance_of(flow, runner_of(flow), look=look)
    thread = threading.Thread(target=instance.activate, args=(START,))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert seen[0].workflow_id == "sandbox-validate-workflow_id"
    assert seen[1] == thread.ident
    assert instance.get_thread_id() is None


class TheirSandbox(SandboxedWorkflowRunner):
    """Somebody's own kind of sandbox."""


class TheirRunner(UnsandboxedWorkflowRunner):
    """Somebody's own kind of runner within a sandbox."""


async def test_a_users_own_sandbox_or_runner_is_kept(desk):
    flow = desk.flow("theirs", "return 1")
    kept = sandbox_runner(TheirSandbox(), [flow], SandboxSettings())
    assert type(kept) is TheirSandbox
    inside = runner_of(flow, runner_class=TheirRunner)
    assert inside.runner_class is TheirRunner
    assert type(instance_of(flow, inside)) is _Instance
    assert type(instance_of(flow, runner_of(flow))) is not _Instance


def test_a_sandboxed_runner_has_no_options_besides_restrictions_and_class():
    options = [field.name for field in dataclasses.fields(SandboxedWorkflowRunner) if field.init]
    assert options == ["restrictions", "runner_class"]
    assert sandbox_runner(CachingSandboxRunner(), [], SandboxSettings()) == sandbox_runner(
        SandboxedWorkflowRunner(), [], SandboxSettings()
    )


def otherwise(method: str, **changed: Any) -> type:
    """The SDK's instances, with the code of one method changed."""
    made = getattr(_Instance, method)
    code = made.__code__.replace(**{k: change(made.__code__) for k, change in changed.items()})
    return type("Changed", (_Instance,), {method: FunctionType(code, made.__globals__)})


def renamed(field: str, old: str, new: str) -> Any:
    """A change of names, or of text in constants."""
    if field == "co_consts":
        return lambda code: tuple(
            each.replace(old, new) if isinstance(each, str) else each for each in code.co_consts
        )
    return lambda code: tuple(new if each == old else each for each in getattr(code, field))


LINES = "_create_instance", "get_serialization_context", "get_external_store_context"
CHANGES = [
    *((m, "co_varnames", "self", "this") for m in LINES),
    *((m, "co_consts", "__temporal_in_sandbox", "__inside") for m in LINES),
    ("_create_instance", "co_consts", "InSandbox(", "Inside("),
    ("get_serialization_context", "co_varnames", "command_info", "info"),
    ("get_serialization_context", "co_consts", "(__temporal_command_info)", "()"),
    ("get_external_store_context", "co_varnames", "command_info", "info"),
    ("get_external_store_context", "co_consts", "(__temporal_command_info)", "()"),
    ("__init__", "co_varnames", "instance_details", "details"),
    ("__init__", "co_varnames", "runner_class", "runner"),
    ("__init__", "co_varnames", "restrictions", "rules"),
    ("__init__", "co_names", "globals_and_locals", "names"),
    ("_run_code", "co_varnames", "code", "text"),
    ("_run_code", "co_names", "exec", "eval"),
    ("_run_code", "co_names", "globals_and_locals", "names"),
]


@pytest.mark.parametrize(("method", "field", "old", "new"), CHANGES)
def test_a_changed_sandbox_of_the_sdk_is_not_known(method, field, old, new):
    assert not is_known_sandbox(otherwise(method, **{field: renamed(field, old, new)}))


def test_the_sandbox_of_the_installed_sdk_is_known():
    assert is_known_sandbox(_Instance)
    assert is_known_sandbox(otherwise("_run_code"))
    assert not is_known_sandbox(object)
    assert not is_known_sandbox(type("WithoutCode", (_Instance,), {"_run_code": partial(print)}))


def test_an_unknown_sdk_runs_its_own_sandbox(monkeypatch):
    monkeypatch.setattr("orkestra.temporal.sandbox.caching_instance_class", lambda: None)
    made = sandbox_runner(SandboxedWorkflowRunner(), [], SandboxSettings())
    assert type(made) is SandboxedWorkflowRunner
    assert "orkestra" in made.restrictions.passthrough_modules


PROGRAM = """
import asyncio
from temporalio import workflow

@workflow.defn
class Flow:
    @workflow.run
    async def run(self):
        return [__name__, __debug__]

if __name__ == "__main__":
    from tests.support.sandboxes import outcome, runner_of
    print(asyncio.run(outcome(Flow, runner_of(Flow))))
"""


def test_a_program_runs_workflows_of_its_own_also_optimised_and_without_bytecode(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environ = os.environ | {"PYTHONPATH": str(Path.cwd()), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run(
        [sys.executable, "-OO", program],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.stdout == "(['__temporal_main__', False], [])\n", ran.stderr
