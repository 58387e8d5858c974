"""Signs of life and of work that the processes of a run give each other."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

from torch.distributed import Store  # type: ignore[attr-defined]

from pydream.errors import PydreamError
from pydream.files import RESUME

_BEAT, _LOST = 1.0, 60.0  # seconds between signs of life, and after which a rank counts as lost
_TELLING = 1.0  # seconds between two words on the work


class Signs:
    """Signs of all ranks, through the store that connects them.

    Its methods raise RuntimeError if the store has gone with the rank that holds it.

    Parameters
    ----------
    store
        The store.
    number, count
        Number of this process, and of all.
    """

    def __init__(self, store: Store, number: int, count: int) -> None:
        self._store, self._number, self._count = store, number, count
        self._told = 0.0
        self._seen: list[tuple[int, float]] = []  # of each rank: its last sign, and when it came

    def show_life(self) -> None:
        """Give signs of life from now on, and expect them of the other ranks, too."""
        self._seen = [(0, time.monotonic())] * self._count

        def beat() -> None:
            with suppress(RuntimeError):
                while True:
                    self._store.add(f"sign-{self._number}", 1)
                    time.sleep(_BEAT)

        threading.Thread(target=beat, name="pydream-signs", daemon=True).start()

    def check(self) -> None:
        """Raise PydreamError if a rank has given no sign of life for a minute."""
        now = time.monotonic()
        for number, (seen, since) in enumerate(self._seen):
            sign = self._store.add(f"sign-{number}", 0)
            if sign != seen:
                self._seen[number] = sign, now
            elif now - since > _LOST:
                raise PydreamError(
                    f"rank {number} was killed, or its machine is lost; {self._last_work(number)}; "
                    f"{RESUME}"
                )

    def tell(self, work: str) -> None:
        """Tell the others what this rank is doing; at most once a second goes out."""
        if time.monotonic() - self._told < _TELLING:
            return
        self._told = time.monotonic()
        self._store.set(f"work-{self._number}", work)
        self._store.add(f"beat-{self._number}", 1)

    def progress(self) -> list[int]:
        """Return how often each rank has told of its work."""
        return [self._store.add(f"beat-{number}", 0) for number in range(self._count)]

    def last_works(self) -> str:
        """Return what each rank has told last, in words."""
        return "; ".join(map(self._last_work, range(self._count)))

    def _last_work(self, number: int) -> str:
        key = f"work-{number}"
        work = self._store.get(key).decode() if self._store.check([key]) else "nothing"
        return f"rank {number} told last: {work}"
