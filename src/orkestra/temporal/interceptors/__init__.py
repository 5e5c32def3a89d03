"""The interceptors; the tenant's and the trace's know nothing of each other."""
