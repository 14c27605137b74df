"""What a run says to people while it goes: progress and warnings. Writes to stderr only."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from qgate.records import Tally

LINE_SECONDS = 10.0


def warn(message: str) -> None:
    """One line about what was asked and is not done, or is done otherwise."""
    print(f"qgate: warning: {message}", file=sys.stderr, flush=True)


class RunProgress:
    """Shows the verdicts so far: a bar on a terminal, a line every ten seconds elsewhere.

    count: faces wanted, or None where all that pass are; then the bar shows candidates out of `candidates`.
    """

    def __init__(self, count: int | None, candidates: int) -> None:
        self._count, self._candidates = count, candidates
        self._begin: Tally | None = None
        self._start = self._said = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            columns = (BarColumn(bar_width=16), TextColumn("{task.fields[facts]}"))
            self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), refresh_per_second=4)
            self._bar.add_task("", total=self._count or self._candidates, facts="starting")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, tally: Tally) -> None:
        """Take notice of the verdicts so far, sealed and in work."""
        now = time.monotonic()
        if self._begin is None:
            self._begin, self._start = tally, now
        done = tally.accepted if self._count else tally.judged
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=done, facts=self._facts(tally, now))
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            print(f"qgate: {self._facts(tally, now)}", file=sys.stderr, flush=True)

    def _facts(self, tally: Tally, now: float) -> str:
        target = f" of {self._count}" if self._count else ""
        share = f"{tally.accepted / tally.judged:.1%}" if tally.judged else "-"
        begin = self._begin or tally
        rate = (tally.judged - begin.judged) / max(now - self._start, 1e-9)
        return f"{tally.accepted}{target} accepted, {tally.judged} judged, yield {share}, {rate:.1f} a second"
