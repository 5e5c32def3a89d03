"""The work that is measured."""
