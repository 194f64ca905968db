"""Progress of runs, read from their run directories: bars on a terminal, a line now and then elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.rundir import RunDir, RunDirError, is_trained

PLAIN_LINES = 10  # lines a run where no terminal draws bars


class Monitor:
    """Shows every run that it is told to watch; ``update`` reads the run directories again."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console()
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}  {task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.runs: dict[str, tuple[RunDir, TaskID, str]] = {}
        self.printed: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> "Monitor":
        self.bars.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.update()
        self.bars.stop()

    def watch(self, run: RunDir) -> None:
        """Start to show a run; a second call for the same one changes nothing."""
        if str(run.path) in self.runs:
            return
        manifest = run.manifest()
        label = f"{manifest['arm']} seed={manifest['seed']}"
        task = self.bars.add_task(label, total=manifest["planned_steps"], text="")
        self.runs[str(run.path)] = (run, task, label)

    def update(self) -> None:
        for key, (run, task, label) in self.runs.items():
            try:
                status, metrics = run.status(), run.metrics()[0]
            except RunDirError:
                continue  # being written; the next look will find it
            trained = {step: data for step, data in metrics.items() if is_trained(data)}
            step = max(trained, default=0)
            text = describe(trained[step]) if trained else "starting" if status["state"] == "running" else ""
            self.bars.update(task, completed=step, text=text, total=status.get("planned_steps"))
            if not self.console.is_terminal:
                self._print(key, label, status, step, text)

    def _print(self, key: str, label: str, status: dict[str, Any], step: int, text: str) -> None:
        total = status.get("planned_steps") or 1
        part = step * PLAIN_LINES // total
        if self.printed.get(key, ("", -1)) != (status["state"], part):
            self.printed[key] = (status["state"], part)
            clock = time.strftime("%H:%M:%S")
            self.console.print(
                f"{clock} {label}: {status['state']}, step {step}/{total} {text}", highlight=False, soft_wrap=True
            )


def describe(data: dict[str, Any]) -> str:
    """One step in a few words: length, clip fraction, reward, where they exist."""
    if "response_length" not in data:
        return "not recorded"
    parts = [f"length {data['response_length']:.1f}"]
    if "clip_frac_token" in data:
        parts.append(f"clipped {100 * data['clip_frac_token']:.2g} %")
    parts.append(f"reward {data['reward']:.2f}")
    return ", ".join(parts)
