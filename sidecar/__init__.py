"""Keeps a machine's web server configuration in step with the index database."""

__version__ = "0.1.0"
