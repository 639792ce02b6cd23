"""What a person sees while a run works: bars on a terminal, plain lines in a log. Part of the command line."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from aha.pipeline import Event
from aha.report.wording import duration

QUIET = 10.0  # seconds between two lines of a log
STOPPING = "stopping after this step, then saving; Ctrl-C again ends it at once"


def watch(events: Iterable[Event], console: Console) -> None:
    """Show a run until it ends."""
    watcher = _Bars(console) if console.is_terminal else _Lines(console)
    with watcher, _answering_ctrl_c(watcher):
        try:
            for event in events:
                watcher.show(event)
        except KeyboardInterrupt:  # it came while something was being shown: the run must hear of it too
            getattr(events, "close", lambda: None)()  # raises Stopped once the stage has saved
            raise


@contextmanager
def _answering_ctrl_c(watcher: _Lines) -> Iterator[None]:
    """The first Ctrl-C gets a word at once, since stopping may take as long as a step; the second is a plain one."""

    def answer(*_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        watcher.say("", STOPPING)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, answer)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def measures(facts: dict[str, Any]) -> str:
    """The step's numbers that people look at, in a few words."""
    words = []
    if (reward := facts.get("reward")) is not None:
        words.append(f"reward {reward:.3f}")
        words.append(f"length {facts.get('completion_length') or 0:.0f}")
    elif (loss := facts.get("loss")) is not None:
        words.append(f"loss {loss:.3f}")
    if speed := facts.get("rollout_tokens_per_second") or facts.get("tokens_per_second"):
        words.append(f"{speed:,.0f} {'new ' if 'reward' in facts else ''}tokens/s")
    return "  ".join(words)


class _Lines:
    """One line for each thing that happens, and for progress at most one every ten seconds."""

    def __init__(self, console: Console):
        self._console = console
        self._last = 0.0
        self._began: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def say(self, part: str, text: str) -> None:
        self._console.print(f"{part:>9}  {text}", markup=False, highlight=False, soft_wrap=True)

    def show(self, event: Event) -> None:
        if event.what == "step":
            self.progress(event)
        elif event.what == "done":
            self.say(event.part, f"done in {duration(event.facts.get('seconds'))}")
        elif event.what == "skip":
            self.say(event.part, f"skipped: {event.text}")
        elif event.what == "start":
            self.say(event.part, f"starts ({event.text})")
        else:
            self.say(event.part, event.text)

    def progress(self, event: Event) -> None:
        now, step, steps = time.time(), event.facts["step"], event.facts.get("steps") or 0
        began, first = self._began.setdefault(event.part, (now, step))
        if now - self._last < QUIET and step != steps:
            return
        self._last = now
        left = (now - began) / (step - first) * (steps - step) if step > first else None
        eta = f"  {duration(left)} left" if left and left > 0 else ""
        of = f"/{steps}" if steps else ""
        self.say(event.part, f"step {step}{of}  {measures(event.facts)}{eta}")


class _Bars(_Lines):
    """A bar for the part that is working, above it what has happened."""

    def __init__(self, console: Console):
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.fields[part]:>9} "),
            BarColumn(),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[measures]}"),
            console=console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        if event.what == "start":
            self._drop(event.part)
            steps = event.facts.get("steps")
            what = "starting" if steps else "working"
            self._tasks[event.part] = self._progress.add_task("", total=steps, part=event.part, measures=what)
        if event.what == "done":
            self._drop(event.part)
        super().show(event)

    def _drop(self, part: str) -> None:
        if part in self._tasks:
            self._progress.remove_task(self._tasks.pop(part))

    def progress(self, event: Event) -> None:
        self._progress.update(
            self._tasks[event.part],
            total=event.facts.get("steps"),
            completed=event.facts["step"],
            measures=measures(event.facts),
        )
