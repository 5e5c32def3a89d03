"""Commands for development only: `dev`, `demo`, `init` and the trace page."""
