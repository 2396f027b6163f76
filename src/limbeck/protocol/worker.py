"""One run of a protocol in a process of its own: `python -m limbeck.protocol.worker RECIPE FOLDER`.

It shows no results: nobody looks before all runs are done. It ends when its standard input does. So it never
outlives the process that started it, however that one ended; a run goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
import threading

INTERRUPTED = 130


def main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    recipe, folder = sys.argv[1:]
    sys.argv = ["limbeck", "run", recipe, "--out", folder, "--no-report"]
    from limbeck.cli import main as command

    command()


def _end_with_parent() -> None:
    while os.read(0, 1 << 16):  # not sys.stdin: its lock would be held when the process ends
        pass
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    main()
