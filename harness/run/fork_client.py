"""Asks the fork server for a process, and lives and ends with it: in place of ``python SCRIPT ARGUMENTS...``

    python -I -S fork_client.py SOCKET SCRIPT ARGUMENTS...

It starts in 20 ms, for it imports nothing that is large. Where no server answers (it has died, or this is another
machine) it becomes the plain Python that Ray meant.
"""

import json
import os
import signal
import socket
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
LOST = 1  # exit status where the server ended before the worker


def main(address: str, command: list[str]) -> int:
    """Exit status of the worker; negative where a signal ended it."""
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(address)
        request = json.dumps({"argv": command, "cwd": os.getcwd(), "env": dict(os.environ)}).encode()
        socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(request)
        answers = server.makefile("rb")
        pid = int(answers.readline())
    except (OSError, ValueError):
        os.execv(sys.executable, [sys.executable, *command])
    try:
        worker = os.pidfd_open(pid)
    except ProcessLookupError:  # it has ended already
        worker = -1
    else:
        for number in FORWARDED:
            signal.signal(number, lambda number, _: signal.pidfd_send_signal(worker, number))
    status = answers.readline()
    if status:
        return int(status)
    if worker >= 0:  # the server is gone: its worker is nobody's child, but lives
        import select

        select.select([worker], [], [])
    return LOST


def leave(status: int) -> None:
    """End as the worker did, so that Ray sees what it would have seen; never returns."""
    if status < 0:
        if -status in FORWARDED:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)


if __name__ == "__main__":
    leave(main(sys.argv[1], sys.argv[2:]))
