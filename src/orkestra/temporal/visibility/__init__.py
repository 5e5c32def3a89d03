"""List and count queries held inside one tenant.

The server's parser takes `/* */`, `--`, `#` and `//` for comments, so text put in front of a
caller's query, or around it, can be commented away. Here the query is parsed by a grammar that
knows only what is allowed, and written anew from its tokens next to the tenant's scope.
"""

from orkestra.temporal.visibility.scope import IdField, is_own_row, scope_query

__all__ = ["IdField", "is_own_row", "scope_query"]
