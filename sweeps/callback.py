"""What Hydra's multirun lacks: a view of all cells while they run, a closing table, and an exit code that tells."""

import json
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from rich.console import Console

from harness.progress import Monitor
from harness.rundir import RunDir
from harness.train import SWEEP_DIR

LOOK_SECONDS = 1.0
CLOSING = ("response_length", "clip_fraction", "reward", "accuracy")  # drawn at the end; `make report` draws all


class SweepCallback(Callback):
    """Watches the cells of one multirun from the process that launched it; they report through small files."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.folder: tempfile.TemporaryDirectory[str] | None = None
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Hydra sends the callback to the processes of the cells, which have no use for what it holds."""
        return {}

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="sweep-")
        os.environ[SWEEP_DIR] = self.folder.name
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        self.over.set()
        assert self.folder
        if self.thread:
            self.thread.join()
        cells = self._cells()
        self.folder.cleanup()
        self._summary(cells)
        failed = [cell for cell in cells if cell["state"] != "done"]
        for cell in failed:
            if not cell["run_dir"]:  # refused before it had a directory, so the table does not show it
                self.console.print(f"{' '.join(cell['overrides'])}: {cell['error']}", style="red", soft_wrap=True)
        if failed:
            self.console.print(f"{len(failed)} of {len(cells)} runs are not done; the same command continues them")
            sys.exit(1)

    def _cells(self) -> list[dict[str, Any]]:
        assert self.folder
        return [json.loads(file.read_text()) for file in sorted(Path(self.folder.name).glob("[0-9]*.json"))]

    def _watch(self) -> None:
        with Monitor(self.console) as monitor:
            while not self.over.wait(LOOK_SECONDS):
                for cell in self._cells():
                    if cell["run_dir"]:
                        monitor.watch(RunDir(Path(cell["run_dir"])))
                monitor.update()

    def _summary(self, cells: list[dict[str, Any]]) -> None:
        """The closing table and the curves of this multirun's cells."""
        from analysis import AnalysisError, load_runs, print_summary
        from analysis.report import write_figures

        paths = [Path(cell["run_dir"]) for cell in cells if cell["run_dir"]]
        if not paths:
            return
        try:
            runs = load_runs(paths)
            print_summary(runs, self.console)
            write_figures(runs, console=self.console, names=CLOSING)
        except AnalysisError as error:
            self.console.print(f"no curves: {error}", style="yellow", highlight=False, soft_wrap=True)
