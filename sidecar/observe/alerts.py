"""What each alert means and what to do, as monitoring/README.md says it."""

from __future__ import annotations

import re
from functools import cache

from sidecar.system.shipped import shipped

_SECTION = re.compile(r"^### (\w+)\n\n(.*?)(?=^### |\Z)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")


@cache
def meanings() -> dict[str, str]:
    """Alert -> its section as plain text: what it means, and numbered steps."""
    text = shipped("README.md").read_text()
    return {name: _plain(section) for name, section in _SECTION.findall(text)}


def _plain(section: str) -> str:
    """Without the links' addresses, each paragraph and step on a line of its own."""
    words = _LINK.sub(r"\1", section).strip()
    return re.sub(r"\n(?!\n|\d+\. )(?<!\n\n) *", " ", words)
