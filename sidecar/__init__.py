"""Keeps a machine's web server configuration in step with the index database.

An update comes in at `web.public`, `web.operations` or `update.triggers`, waits in `update.worker`, is
carried out by `update.updater`, and ends as files in `generations`; `update.reconciler` follows it until the
web server serves it, and `ready` does the slow work that comes after. `daemon` wires all of this together.
"""

__version__ = "0.1.0"
