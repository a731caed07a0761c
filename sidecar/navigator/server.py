"""Navigator as one thing: its process, the markers of its loads, its port, and probes through it."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.navigator.markers import Markers
from sidecar.navigator.probes import NavigatorPort, Probes
from sidecar.navigator.process import NavigatorProcess


@dataclass(frozen=True, slots=True)
class Navigator:
    """All that the sidecar knows Navigator by."""

    process: NavigatorProcess
    markers: Markers
    gate: NavigatorPort
    probes: Probes
