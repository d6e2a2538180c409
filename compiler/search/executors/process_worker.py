"""A worker of processes.py: python -m fxpress.search.executors.process_worker FILE_DESCRIPTOR."""

from __future__ import annotations

import os
import sys
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any


def main(descriptor: int) -> None:
    """Run trials for the process at the other end of the connection; end when that one does."""
    connection = Connection(descriptor)
    sys.path[:] = connection.recv()  # the user's modules are found where they were
    threads = connection.recv()
    requests: SimpleQueue[Any] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()

    from ...machine import SharedMachine
    from .wire import Failure, pack
    from .workplace import Workplace

    folder, trials = requests.get(), requests.get()
    try:
        workplace = Workplace(trials, SharedMachine(folder), threads)
    except BaseException as error:  # it is raised where the search is
        connection.send(("outcome", pack(Failure.of(error))))
        return
    connection.send(("ready", None))
    while True:
        connection.send(("outcome", workplace.run(requests.get(), lambda stage: connection.send(("stage", stage)))))


def _receive(connection: Connection, requests: SimpleQueue[Any]) -> None:
    """Pass on what is sent, until the other end is closed: then nobody wants what this process computes."""
    try:
        while True:
            requests.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
