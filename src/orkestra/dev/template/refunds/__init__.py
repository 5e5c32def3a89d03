"""Refunds: small ones are paid at once, larger ones wait until somebody approves."""
