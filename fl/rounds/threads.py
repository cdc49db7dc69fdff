"""Work of clients in threads of their own, awaited with asyncio.

The threads are daemons: one that is late, or never ends, keeps neither the next round nor the end of the program
waiting, as those of asyncio's own pool would.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

R = TypeVar("R")


class Busy:
    """Who is still at work."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._names

    async def run(self, name: str, work: Callable[[], R]) -> R:
        """Do the work in a thread of that name, and wait for what it gives or raises.

        If this is cancelled, the thread goes on, and what it gives is dropped.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()

        def settle(done: Callable[[], None]) -> None:
            def unless_over() -> None:
                if not future.done():
                    done()

            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(unless_over)

        def body() -> None:
            try:
                done = partial(future.set_result, work())
            except Exception as error:
                done = partial(future.set_exception, error)
            self._names.discard(name)
            settle(done)

        self._names.add(name)
        threading.Thread(target=body, name=f"round at {name}", daemon=True).start()
        return await future
