"""Workflows from the command line, each as its tenant's: start, talk to, look at, end."""
