"""A command and the people at it: progress, warnings, and the wish to stop. Writes to stderr only."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qgate.records import Tally

LINE_SECONDS = 10.0
SHOW_CURSOR = "\x1b[?25h"


def warn(message: str) -> None:
    """One line about what was asked and is not done, or is done otherwise."""
    print(f"qgate: warning: {message}", file=sys.stderr, flush=True)


class WorkProgress:
    """Shows a text and how much is done: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (BarColumn(bar_width=16), TextColumn("{task.fields[facts]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), refresh_per_second=4)
            self._bar.add_task("", total=None, facts="starting")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, text: str, important: bool = False, done: int = 0, total: int = 0) -> None:
        """Show where the work is.

        important: a line that stays, shown at once.
        done, total: for the bar; total 0 is unknown.
        """
        now = time.monotonic()
        if self._bar is not None and not important:
            task = self._bar.tasks[0]
            if task.total != (total or None):
                self._bar.reset(task.id, total=total or None)
            self._bar.update(task.id, completed=done, facts=text)
        elif self._bar is not None:
            self._bar.console.print(f"qgate: {text}", highlight=False, markup=False, soft_wrap=True)
        elif important or now - self._said >= LINE_SECONDS:
            self._said = now
            print(f"qgate: {text}", file=sys.stderr, flush=True)


class RunProgress(WorkProgress):
    """Shows the verdicts so far.

    count: faces wanted, or None where all that pass are; then the bar shows candidates out of `candidates`.
    """

    def __init__(self, count: int | None, candidates: int) -> None:
        super().__init__()
        self._count, self._candidates = count, candidates
        self._begin: Tally | None = None
        self._start = time.monotonic()

    def update(self, tally: Tally) -> None:
        """Take notice of the verdicts so far, sealed and in work."""
        now = time.monotonic()
        if self._begin is None:
            self._begin, self._start = tally, now
        done = tally.accepted if self._count else tally.judged
        self.say(self._facts(tally, now), done=done, total=self._count or self._candidates)

    def _facts(self, tally: Tally, now: float) -> str:
        target = f" of {self._count}" if self._count else ""
        share = f"{tally.accepted / tally.judged:.1%}" if tally.judged else "-"
        begin = self._begin or tally
        rate = (tally.judged - begin.judged) / max(now - self._start, 1e-9)
        return f"{tally.accepted}{target} accepted, {tally.judged} judged, yield {share}, {rate:.1f} a second"


class StopFlag:
    """Callable: true once SIGINT or SIGTERM has asked to stop; the second signal ends the process at once."""

    def __init__(self) -> None:
        self._asked = False

    def __call__(self) -> bool:
        return self._asked

    def ask(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        """The signal handler: sets the flag, and ends the process when called again."""
        if self._asked:
            if sys.stderr.isatty():
                os.write(2, SHOW_CURSOR.encode())
            os._exit(128 + number)
        self._asked = True


@contextmanager
def stop_on_signals() -> Iterator[StopFlag]:
    """Within the block, SIGINT and SIGTERM set the flag instead of raising."""
    flag = StopFlag()
    before = {number: signal.signal(number, flag.ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
