"""`python -m tests.soak`: whether a worker and a client stay as small as they were."""
