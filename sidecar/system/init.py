"""The first process of a container, where nothing else is there to be that.

To process 1 the kernel gives the orphans of all others, whose ends it has to take, and of the signals only
those that it handles: one that comes before the daemon does so would be lost.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Set as AbstractSet

_PASSED_ON: AbstractSet[signal.Signals] = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2}
)


def leave_first_process() -> None:
    """As process 1: let a child go on with the command, and be no more than what a first process has to be.

    It returns in the child, and anywhere else at once. To be called before the first thread is started.
    """
    if os.getpid() != 1:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON | {signal.SIGCHLD})
    child = os.fork()
    if child:
        os._exit(_look_after(child))
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if os.environ.get("LISTEN_PID") == "1":  # sockets that were passed are the command's
        os.environ["LISTEN_PID"] = str(os.getpid())


def _look_after(child: int) -> int:
    """Pass signals on and take the ends of orphans until the child ends; its status, as a shell has it."""
    while True:
        number = signal.sigwait(_PASSED_ON | {signal.SIGCHLD})
        if number != signal.SIGCHLD:
            os.kill(child, number)  # it is there as long as its end was not taken
            continue
        while True:
            ended, status = os.waitpid(-1, os.WNOHANG)
            if ended == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if not ended:
                break
