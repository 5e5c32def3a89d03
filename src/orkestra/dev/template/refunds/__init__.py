"""Refunds: small ones are paid at once, larger ones wait for approval."""
