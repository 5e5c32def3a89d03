"""Everything that touches the Temporal SDK."""
