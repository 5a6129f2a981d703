"""The background thread that encodes and writes, so that the training thread only hands over."""

import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from lightning_convviz.render import encode
from lightning_convviz.sinks.table import EncodedDrawing, LoggedDrawing, write

# Two drawings wait at most: on a disk slower than the run, the oldest is dropped and counted.
WAITING = 2
PATIENCE = 60.0  # seconds that the end of a run waits for the writer

SLOW = "drawings were dropped because writing was slower than drawing"

Handed = Sequence[tuple[LoggedDrawing, Sequence[Any]]]


class Writer:
    """Encodes and writes drawings in the order they come, in one thread, which ends when nothing waits any more."""

    def __init__(self) -> None:
        self._lost: Counter[str] = Counter()  # by kind of error: how many drawings are not reported yet
        self._reasons: dict[str, str] = {}  # by kind: the first
        self._reported: set[str] = set()
        self._waiting: deque[Handed] = deque()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, handed: Handed, *, patient: bool = False) -> None:
        """Hand over the drawings of one moment, each with the places where it goes; returns at once.

        Where too many wait, the oldest are dropped, but not for `patient` ones.
        """
        with self._lock:
            if len(self._waiting) >= WAITING and not patient:
                self._lost[SLOW] += len(self._waiting.popleft())
            self._waiting.append(handed)
            self._start()

    def _start(self) -> None:
        if self._thread is None or not self._thread.is_alive():  # none, or one that something killed
            self._thread = threading.Thread(target=self._run, name="convviz-writer", daemon=True)
            self._thread.start()

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until everything is written; False where that takes over `timeout` seconds, by default `PATIENCE`."""
        with self._lock:
            if self._waiting:
                self._start()
            thread = self._thread
        if thread is not None:
            thread.join(PATIENCE if timeout is None else timeout)
            return not thread.is_alive()
        return True

    def new_errors(self) -> list[str]:
        """Why drawings were lost since the last call; what goes wrong again and again is named once."""
        with self._lock:
            new = [kind for kind in self._lost if kind not in self._reported]
            self._reported.update(new)
            self._lost -= Counter(new)
            return [self._reasons.get(kind, kind) for kind in new]

    def remaining_errors(self) -> list[tuple[int, str]]:
        """How many drawings were lost beside those that `new_errors` returned, by kind of error."""
        with self._lock:
            lost, self._lost = self._lost, Counter()
        return [(count, kind) for kind, count in lost.items()]

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._thread = None
                    return
                handed = self._waiting.popleft()
            for drawing, places in handed:
                with self._excused():
                    files = EncodedDrawing(drawing, {tag: encode(picture) for tag, picture in drawing.pictures.items()})
                    for place in places:
                        with self._excused():
                            write(place, files)

    @contextmanager
    def _excused(self) -> Iterator[None]:
        """What goes wrong is reported by the training thread; nothing may end this one or keep another logger waiting.

        Not even `SystemExit`, which a logger's client may raise: in a thread it would never be reported.
        """
        try:
            yield
        except BaseException as error:
            kind = type(error).__name__
            with self._lock:
                self._lost[kind] += 1
                with suppress(BaseException):  # even its text may fail
                    self._reasons.setdefault(kind, f"{kind}: {error}")
