"""The tenancy matrix, calls of clients: one test for each cell; all cells run at once."""

import pytest
from temporalio.client import Client

from tests.matrix.running import Outcomes, cells, raise_first, run_cells, wanted
from tests.matrix.table import GROUPS, OF_CLIENTS

# The SDK warns when a run without a cache is evicted while its local activity ends.
pytestmark = pytest.mark.filterwarnings("ignore:Cannot find activity to cancel:UserWarning")

ROWS = [row for group, rows in GROUPS.items() if group in OF_CLIENTS for row in rows]


@pytest.fixture(scope="module")
async def outcomes(raw_client: Client, request: pytest.FixtureRequest) -> Outcomes:
    return await run_cells(raw_client, ROWS, wanted(request))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("cell", cells(ROWS))
def test_cell(outcomes, cell):
    raise_first(outcomes[cell])
