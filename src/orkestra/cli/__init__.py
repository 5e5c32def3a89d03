"""The `orkestra` command, which needs the extra `cli`."""
