"""The gate's table: what a tenant may call, and with what in each field.

Everything that is not in it is refused. When the SDK grows an RPC or a field, decide here whether
a tenant could reach beyond its own work with it.
"""

from orkestra.temporal.guard.table.rpcs import RPCS, SERVICES
from orkestra.temporal.guard.table.shapes import SHAPES

__all__ = ["RPCS", "SERVICES", "SHAPES"]
