"""Writes the bill of materials of a lock file to standard output, as CycloneDX JSON: `make sbom`.

    python package/sbom.py requirements.lock

The lock file says it all: names, versions, the digests that are accepted, and what each is needed by. So a
few lines do what a tool and its two dozen packages would.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from sidecar import __version__

NAME = "navigator-sidecar"
_ENTRY = re.compile(r"^([a-z0-9.-]+)==(\S+) \\\n((?: .*\n?)+)", re.MULTILINE)


def bill(lock: str) -> dict[str, Any]:
    """The document for the text of a lock file."""
    entries = _ENTRY.findall(lock)
    references = {NAME: reference(NAME, __version__)} | {
        name: reference(name, version) for name, version, _ in entries
    }
    needs: dict[str, list[str]] = {name: [] for name in references}
    components = []
    for name, version, rest in entries:
        digests, _, via = rest.partition("# via")
        for parent in re.findall(r"^[ #]*([a-z0-9.-]+)", via, re.MULTILINE):
            needs[parent].append(references[name])
        components.append(
            {
                "type": "library",
                "bom-ref": references[name],
                "name": name,
                "version": version,
                "purl": references[name],
                "externalReferences": [
                    {
                        "type": "distribution",
                        "url": references[name],
                        "comment": "the files that the lock file accepts",
                        "hashes": [
                            {"alg": "SHA-256", "content": digest}
                            for digest in re.findall(r"sha256:([0-9a-f]{64})", digests)
                        ],
                    }
                ],
            }
        )
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        # The same content has the same number.
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, references[NAME] + lock).urn,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": references[NAME],
                "name": NAME,
                "version": __version__,
                "purl": references[NAME],
                "licenses": [{"license": {"id": "MIT"}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": references[name], "dependsOn": sorted(needs[name])} for name in references],
    }


def reference(name: str, version: str) -> str:
    """The package URL of a Python package."""
    return f"pkg:pypi/{name}@{version}"


if __name__ == "__main__":
    json.dump(bill(Path(sys.argv[1]).read_text()), sys.stdout, indent=1)
