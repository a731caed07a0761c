"""A whole machine in one folder, to try the sidecar without a cloud account and without Navigator."""

from __future__ import annotations

from pathlib import Path

import bcrypt
import yaml

from sidecar.demo.sample import DEMO_PASSWORD, DEMO_USER, write_events, write_index


def prepare(folder: Path, port: int) -> Path:
    """Make the folder with a sample index in a store and a configuration, and return the latter's path.

    What is there already is kept, so that one can play with it and start again.
    """
    application = folder / "application"
    for part in ("db", "config", "tmp", "storage", "public"):
        (application / part).mkdir(parents=True, exist_ok=True)
    index = folder / "store" / "db" / "index.sqlite3"
    index.parent.mkdir(parents=True, exist_ok=True)
    if not index.exists():
        write_index(index)
        write_events(index, index.parent)
    file = folder / "sidecar.yml"
    settings = {
        "store": f"file://{folder}/store",
        "profile": "local",
        # Known to everyone, on this machine's loopback only.
        "administrators": {DEMO_USER: bcrypt.hashpw(DEMO_PASSWORD.encode(), bcrypt.gensalt(4)).decode()},
        "paths": {"application": str(application), "state": str(folder / "state")},
        "navigator": {"pid_file": str(folder / "navigator.pid")},
        "listen": {"socket": str(folder / "sidecar.sock"), "port": port},
    }
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return file
