"""What the process that watches a run concludes from its metrics: that it lives, stalls, or has gone wrong.

Rows are read once, as they come. Nothing here touches training: an alert is an event in the run directory, and ends
the run only where ``harness.watch.stop_on`` names it.
"""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import mean, median
from typing import Any

from harness.run.arithmetic import engine_fault
from harness.run.engine_log import EngineLog
from harness.rundir import STAGE_FILE, RunDir, is_trained

SHOWN = ("response_length", "clip_frac_token", "reward", "accuracy")  # of the last step, in status.json
FIRST = 5  # steps whose mean length is where an attempt's run started
WINDOW = 5  # steps that an alert must hold for
FINITE = ("response_length", "reward", "entropy", "grad_norm", "ppo_kl")  # numbers in every step of a healthy run
Row = Mapping[str, Any]


class Watch:
    """Follows one attempt of a run; call ``look`` now and then.

    limits: ``harness.watch`` of the configuration; resumed: the step that the attempt continues from; planned: the
    run's steps.
    """

    def __init__(
        self,
        run: RunDir,
        attempt: Path,
        limits: Mapping[str, Any],
        resumed: int = 0,
        planned: int = 0,
        clock: Callable[[], float] = time.time,
    ):
        self.run, self.attempt, self.limits, self.planned, self.clock = run, attempt, limits, planned, clock
        self.file, self.offset = attempt / "metrics.jsonl", 0
        trained = ((step, data) for step, data in run.metrics()[0].items() if is_trained(data))
        self.rows: dict[int, Row] = {step: data for step, data in trained if step <= resumed}
        self.looked = clock()
        self.arrivals = [self.looked]  # of this attempt's steps; the first is its start
        self.raised: set[str] = set()
        self.engine = EngineLog(attempt / "log.txt")
        self.stage = ("", self.looked)  # of the start-up, and when it began

    def look(self) -> str | None:
        """Read what is new; returns why the run must be ended now, or None."""
        rows, before, self.looked = list(self._new_rows()), self.looked, self.clock()
        for number, (step, row) in enumerate(rows, 1):
            self.rows[step] = row
            if step == 1 and (fault := self._engine_fault(row)):
                return fault
            # Several steps may fit between two looks: evenly, as far as anybody knows.
            self.arrivals.append(before + (self.looked - before) * number / len(rows))
            for kind, message in alerts(self.rows, self.limits):
                if kind not in self.raised:
                    self.raised.add(kind)
                    self.run.add_event(kind, step=step, attempt=int(self.attempt.name), message=message)
                    if kind in self.limits["stop_on"]:
                        return f"alert {kind}: {message}"
        # An engine that is shut down after the last step may say of itself that it died.
        if (broken := self.engine.look()) and not self._all_steps():
            return f"the rollout engine broke down: {broken}"
        return self._stalled()

    def status(self) -> dict[str, Any]:
        """Fields of ``status.json``: the last step, what it measured, seconds left (None before two steps), and before
        the first step what the attempt is doing.

        A step counts as long as they all took on average, so that the slower ones, which validate or save, are in it.
        """
        step = max(self.rows, default=0)
        row = self.rows.get(step, {})
        gaps = self._gaps()
        left = mean(gaps) * (self.planned - step) if gaps else None
        last = {key: row[key] for key in SHOWN if key in row}
        return {"last_step": step, "last": last, "seconds_left": left, "stage": self._stage()}

    def _all_steps(self) -> bool:
        return 0 < self.planned <= max(self.rows, default=0)

    def _engine_fault(self, row: Row) -> str | None:
        """By the first step, before anything was learnt; noise is what ``train`` knows of the arithmetic in use."""
        noise = self.limits.get("token_noise")
        if noise is None or not self.limits.get("check_engine"):
            return None
        return engine_fault(row, noise, bool(self.limits.get("comparable")))

    def _stage(self) -> str:
        """Nothing once the attempt has trained a step."""
        if len(self.arrivals) > 1 or not (self.attempt / STAGE_FILE).exists():
            return ""
        return (self.attempt / STAGE_FILE).read_text()

    def _new_rows(self) -> Iterator[tuple[int, Row]]:
        """Complete lines of verl's file logger that were not read before; its last one may still be being written."""
        if not self.file.exists():
            return
        with self.file.open("rb") as file:
            file.seek(self.offset)
            lines = file.read().split(b"\n")
        for line in lines[:-1]:
            self.offset += len(line) + 1
            try:
                row = json.loads(line)
            except ValueError:
                continue  # reading the record says so, with its line
            if is_trained(row["data"]):
                yield int(row["step"]), row["data"]

    def _gaps(self) -> list[float]:
        """Seconds between this attempt's steps; the first has the start-up in it and does not count."""
        return [b - a for a, b in zip(self.arrivals[1:], self.arrivals[2:], strict=False)]

    def _stalled(self) -> str | None:
        waited = self.clock() - self.arrivals[-1]
        if len(self.arrivals) < 3:
            # Loading a large model and validating it may each take long: the limit is for each stage.
            if (stage := self._stage()) != self.stage[0]:
                self.stage = (stage, self.clock())
            waited = min(waited, self.clock() - self.stage[1])
            if waited > self.limits["start_seconds"]:
                during = f" at {stage}" if stage else ""
                return f"no step for {waited:.0f} s after the start{during} (harness.watch.start_seconds)"
            return None
        usual = median(self._gaps())
        if waited > max(self.limits["stall_seconds"], self.limits["stall_factor"] * usual):
            return f"no step for {waited:.0f} s, where one takes {usual:.3g} s (harness.watch.stall_factor)"
        return None


def alerts(rows: Mapping[int, Row], limits: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(kind, message) of everything that is wrong with the latest rows.

    ``nan``: a metric of the last step is not a number; ``short``: the mean length of the last steps is under
    ``collapse_share`` of the first ones'; ``long``: over ``cap_share`` of the responses are cut at the limit;
    ``no_reward``, ``no_entropy``: exactly 0 in all of the last steps.
    """
    steps = sorted(rows)
    first, last = rows[steps[0]], rows[steps[-1]]
    # Metrics of ours that are not finite are left out of the record, verl's are in it.
    wrong = [key for key in FINITE if key in first and not math.isfinite(last.get(key, math.nan))]
    if wrong:
        yield "nan", f"{', '.join(wrong)} is not a number"
    recent = [rows[step] for step in steps[-WINDOW:]]
    if len(recent) < WINDOW or any("response_length" not in row for row in recent):
        return
    early = [rows[step]["response_length"] for step in steps[:FIRST] if "response_length" in rows[step]]
    now = sum(row["response_length"] for row in recent) / WINDOW
    start = sum(early) / max(len(early), 1)
    if now < limits["collapse_share"] * start:
        yield "short", f"mean length {now:.1f} in the last {WINDOW} steps, {start:.1f} in the first"
    if all(row.get("truncated", 0.0) > limits["cap_share"] for row in recent):
        yield "long", f"over {limits['cap_share']:.0%} of the responses reach the limit of length"
    for key in ("reward", "entropy"):
        if all(row.get(key) == 0 for row in recent):
            yield f"no_{key}", f"{key} is 0 in the last {WINDOW} steps"
