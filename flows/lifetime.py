"""Nothing is left behind: processes that end with the one that started them, however that ends."""

import multiprocessing
import os
import threading
import time

CHILD_OF = "EMBEDKIT_CHILD_OF"
"""Environment variable: which process a run was started by, and ends with; the run itself takes it away, since its own children
have another parent."""


def end_with(parent: int) -> None:
    """End this process, at once and whatever it does, when the process that started it has ended.

    Windows doesn't tell a process that its parent has gone; there it goes on.

    Args:
        parent: the process that started this one; where it isn't that any more, this one ends now.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, name="embedkit-parent", daemon=True).start()


def end_with_pool() -> None:
    """The same in a process that `multiprocessing` started; nothing elsewhere."""
    if parent := multiprocessing.parent_process():
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), name="embedkit-parent", daemon=True).start()
