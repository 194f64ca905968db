"""Progress of runs, read from their run directories: bars on a terminal, a line now and then elsewhere."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.rundir import RunDir, RunDirError, is_trained
from harness.rundir.rounding import MOSTLY

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
            TextColumn("{task.fields[left]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.runs: dict[str, tuple[RunDir, TaskID, str]] = {}
        self.printed: dict[str, tuple[str, int, str]] = {}

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
        task = self.bars.add_task(label, total=manifest["planned_steps"], text="", left="")
        self.runs[str(run.path)] = (run, task, label)

    def update(self) -> None:
        for key, (run, task, label) in self.runs.items():
            try:
                status, metrics = run.status(), run.metrics()[0]
            except RunDirError:
                continue  # being written; the next look will find it
            trained = {step: data for step, data in metrics.items() if is_trained(data)}
            step = max(trained, default=0)
            running = status["state"] == "running"
            text = describe(trained[step]) if trained else ""
            if running and (stage := status.get("stage")) and step == status.get("last_step"):
                text = f"starting: {stage}"
            left = f"{duration(status['seconds_left'])} left" if running and step and status.get("seconds_left") else ""
            self.bars.update(task, completed=step, text=text, total=status.get("planned_steps"), left=left)
            if not self.console.is_terminal:
                self._print(key, label, status, step, ", ".join(filter(None, (text, left))))

    def _print(self, key: str, label: str, status: dict[str, Any], step: int, text: str) -> None:
        total = status.get("planned_steps") or 1
        shown = (status["state"], step * PLAIN_LINES // total, status.get("stage") or "")
        if self.printed.get(key) != shown:
            self.printed[key] = shown
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
        rounding = data.get("clip_frac_rounding", 0) > MOSTLY * data.get("clip_frac_seq", 0)
        parts.append(f"clipped {100 * data['clip_frac_token']:.2g} %" + " (mostly rounding)" * rounding)
    parts.append(f"reward {data['reward']:.2f}")
    return ", ".join(parts)


def duration(seconds: float | None) -> str:
    """``2 h 05 min``, ``12 min``, ``40 s``."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
