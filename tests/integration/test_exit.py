"""A script's exit code is its own: the bare SDK aborts the interpreter in about one run of four."""

import asyncio
import sys
from pathlib import Path

DESCRIBE = Path(__file__).parents[1] / "programs" / "describe.py"


async def test_a_script_that_ends_right_after_a_call_exits_with_zero(dev_server):
    codes = []
    for _ in range(12):
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(DESCRIBE), dev_server.address
        )
        codes.append(await process.wait())
    assert codes == [0] * 12
