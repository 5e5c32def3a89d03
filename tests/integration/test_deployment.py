"""The recipes of docs/deployment.md: what can be linted is linted, what can be started runs."""

import asyncio
import json
import re
import shlex
import shutil
import socket
import subprocess
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

import pytest
import yaml

from orkestra.config import OrkestraConfig
from orkestra.devserver import DevServer
from tests.support.command import ORKESTRA, clean_environment
from tests.support.names import Fresh
from tests.support.waiting import PATIENCE, until

PAGE: Final = Path(__file__).parents[2] / "docs" / "deployment.md"
FENCE: Final = re.compile(r"^```\w+\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILES: Final = dict(FENCE.findall(PAGE.read_text(encoding="utf-8")))

APP: Final = """
from temporalio import workflow

@workflow.defn
class Order:
    @workflow.run
    async def run(self) -> str:
        return "done"
"""


def container() -> dict[str, Any]:
    deployment, _ = yaml.safe_load_all(FILES["worker.yaml"])
    pod: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return pod


def command_of_the_image() -> list[str]:
    line = next(line for line in FILES["Dockerfile"].splitlines() if line.startswith("CMD"))
    words: list[str] = json.loads(line.removeprefix("CMD "))
    return words


@asynccontextmanager
async def started(
    words: list[str], directory: Path, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    (directory / "my_app.py").write_text(APP)
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            str(ORKESTRA),
            *words[1:],
            cwd=directory,
            env=clean_environment(directory, **variables),
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def status(url: str) -> int:
    try:
        with urlopen(url, timeout=PATIENCE) as answer:  # noqa: S310 - our own, on the loopback interface
            code: int = answer.status
            return code
    except OSError as error:
        return int(getattr(error, "code", 0))


async def test_what_the_image_starts_answers_the_probes_of_the_manifest_and_ends_in_order(
    dev_server: DevServer, fresh: Fresh, tmp_path: Path
):
    pod = container()
    worker = pod["containers"][0]
    words = command_of_the_image()
    address = f"127.0.0.1:{free_port()}"
    assert words[words.index("--probes") + 1] == f"0.0.0.0:{worker['ports'][0]['containerPort']}"
    words[words.index("--probes") + 1] = address
    words[words.index("--task-queue") + 1] = fresh.task_queue()
    variables = {each["name"]: each["value"] for each in worker["env"]}
    variables["TEMPORAL_ADDRESS"] = dev_server.address
    async with started(words, tmp_path, **variables) as process:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            url = f"http://{address}{worker[probe]['httpGet']['path']}"

            async def is_well(url: str = url) -> bool:
                assert process.returncode is None, (tmp_path / "log").read_text()
                return await asyncio.to_thread(status, url) == 200

            await until(is_well)
        process.terminate()
        async with asyncio.timeout(pod["terminationGracePeriodSeconds"]):
            assert await process.wait() == 0, (tmp_path / "log").read_text()


async def test_the_unit_starts_what_tells_systemd_when_it_is_ready(
    dev_server: DevServer, fresh: Fresh, tmp_path: Path
):
    line = next(each for each in unit() if each.startswith("ExecStart="))
    words = shlex.split(line.removeprefix("ExecStart="))
    words[words.index("--task-queue") + 1] = fresh.task_queue()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        told = await_told(manager)
        variables = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
        async with started(
            words, tmp_path, TEMPORAL_ADDRESS=dev_server.address, **variables
        ) as process:
            await told("READY=1")
            await told("WATCHDOG=1")
            process.terminate()
            await told("STOPPING=1")
            async with asyncio.timeout(PATIENCE):
                assert await process.wait() == 0


def await_told(manager: socket.socket) -> Any:
    async def told(word: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await asyncio.get_running_loop().sock_recv(manager, 4096)
                if word in message.decode().splitlines():
                    return

    return told


def unit() -> list[str]:
    return FILES["orders-worker.service"].splitlines()


def seconds(name: str) -> int:
    return int(next(line for line in unit() if line.startswith(f"{name}=")).partition("=")[2])


def test_what_stops_a_worker_waits_for_all_that_it_may_still_do():
    config = OrkestraConfig()
    needed = (
        config.worker.graceful_shutdown_timeout
        + config.worker.cancellation_timeout
        + config.langfuse.flush_timeout
    ).total_seconds()
    assert container()["terminationGracePeriodSeconds"] > needed
    assert seconds("TimeoutStopSec") > needed
    assert seconds("WatchdogSec") > config.worker.liveness_timeout.total_seconds()


def test_the_manifest_selects_its_own_pods_and_runs_as_the_user_of_the_image():
    deployment, budget = yaml.safe_load_all(FILES["worker.yaml"])
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert budget["spec"]["minAvailable"] < deployment["spec"]["replicas"]
    assert f"USER {container()['securityContext']['runAsUser']}" in FILES["Dockerfile"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_no_fault_with_the_unit(tmp_path: Path):
    text = FILES["orders-worker.service"].replace("/srv/my-app/.venv/bin/orkestra", "/bin/true")
    file = tmp_path / "orders-worker.service"
    file.write_text(text.replace("WorkingDirectory=/srv/my-app", "WorkingDirectory=/"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", file], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "orders-worker" in line]
    assert not ours, done.stderr


@pytest.mark.parametrize("name", ["orkestra.toml", "mtls/orkestra.toml"])
def test_the_settings_for_the_cloud_are_settings(name: str):
    config = OrkestraConfig.model_validate(tomllib.loads(FILES[name]))
    assert config.temporal.namespace == "orders.a1b2c"
    assert not config.temporal.address.startswith("localhost")
