"""The HTTP interface: decodes requests, calls the worker, encodes answers, and decides nothing else."""
