"""Trains seed after seed while a comparison of arms is undecided: adds trials to a scheduler, or stops adding them.

The rule itself is not here (``analysis.statistics.sequential``): ``sweeps.control`` hands it in as a ``Decision``. All
state is in the run directories. Which seeds have ended is read from the scheduler, and the decision is made again from
the runs' files at each start. The file of the decision is its record, and keeps the rule from being changed.

The runs of a seed that is under way when a comparison is decided go on to their end: cut off they would be lost, and
lost runs leave a comparison open. Those that wait are not started.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.config import ConfigError
from harness.rundir import RunDirError, read_json, write_json
from harness.rundir.decisions import decision_file
from sweeps.launchers.base import Launcher
from sweeps.scheduler import Scheduler
from sweeps.trials import Trial

ENDED = ("done", "failed")


class Decision(Protocol):
    """A rule, fixed before the first look. pairs: of arms; words: the rule in a sentence; record: JSON values all."""

    @property
    def pairs(self) -> Sequence[tuple[str, str]]: ...

    @property
    def words(self) -> str: ...

    @property
    def record(self) -> Mapping[str, Any]: ...

    def judge(self, paths: Sequence[Path], seeds: Sequence[int]) -> Mapping[str, Any]:
        """Of the runs of these seeds, in this order, all ended: looks, stop (why no further seed is trained, or "") and
        text (a sentence). JSON values all."""
        ...


def arms_of(trials: Sequence[Trial]) -> list[str]:
    """The arms that the trials will be runs of, in their order."""
    return list(dict.fromkeys(trial.path.parent.name for trial in trials))


def experiment_of(trials: Sequence[Trial]) -> str:
    """The experiment of the trials, which are of one (``until``)."""
    return trials[0].path.parents[1].name


class UntilDecided:
    """Feeds a scheduler. trials: of every seed that may be trained; start: the seeds that are trained in any case.

    folder: of the sweep's state. say: prints a line. Raises ``ConfigError`` for trials that are no comparison and where
    the decision began with another rule.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        start: Sequence[int],
        decision: Decision,
        folder: Path,
        say: Callable[[str], None] = print,
    ):
        self.seeds = list(dict.fromkeys([*start, *(trial.seed for trial in trials)]))
        self.of_seed = {seed: [trial for trial in trials if trial.seed == seed] for seed in self.seeds}
        self.start, self.decision, self.say = list(start), decision, say
        self.file = decision_file(folder, decision.pairs)
        of = {(trial.path.parents[1].name, trial.planned) for trial in trials}
        if len(of) > 1:
            raise ConfigError(
                f"until=decided: one comparison is of one experiment and number of steps, not {sorted(of)}"
            )
        experiment, steps = of.pop()
        self.rule = {**decision.record, "experiment": experiment, "steps": steps, "seeds": self.seeds}
        self.judged: list[str] | None = None  # states of the seeds that the last judgement was of
        self.stop, self.text = "", ""
        self._require_same_rule()
        begun = [at for at, seed in enumerate(self.seeds) if any(t.path.exists() for t in self.of_seed[seed])]
        self.count = max(len(self.start), *(at + 1 for at in begun)) if begun else len(self.start)

    @property
    def trials(self) -> list[Trial]:
        """Those of the seeds so far, also of seeds that were begun by an earlier controller."""
        return [trial for seed in self.seeds[: self.count] for trial in self.of_seed[seed]]

    @property
    def last(self) -> str:
        """What the file says of the last look, "" where there is none."""
        return str(self._before().get("text", ""))

    @property
    def over(self) -> bool:
        """Whether the file says that no further seed is to be trained; what was lost can be tried again."""
        return self._before().get("stop") in ("decided", "max_seeds")

    def advance(self, scheduler: Scheduler) -> None:
        """Judge once a further seed has ended; then withdraw what waits, or add the next seeds once all have ended."""
        ended = self._ended(scheduler)
        states = [state for _, state in ended]
        if ended and states != self.judged:
            self.judged = states
            self._judge([seed for seed, _ in ended])
        if self.stop:
            scheduler.withdraw([trial for seed in self.seeds if seed not in self.start for trial in self.of_seed[seed]])
        elif scheduler.over and self.count < len(self.seeds):
            after = self.count + self._batch(scheduler.launcher)
            scheduler.add([trial for seed in self.seeds[self.count : after] for trial in self.of_seed[seed]])
            self.count = after

    def _ended(self, scheduler: Scheduler) -> list[tuple[int, str]]:
        """(seed, states of its trials) of the first seeds, as long as all trials of each have ended."""
        states = {one.trial.path: one.state for one in scheduler.trials}
        found = []
        for seed in self.seeds:
            of = [states.get(trial.path, "") for trial in self.of_seed[seed]]
            if not all(state in ENDED for state in of):
                break
            found.append((seed, " ".join(of)))
        return found

    def _judge(self, seeds: Sequence[int]) -> None:
        paths = [
            trial.path for seed in seeds for trial in self.of_seed[seed] if (trial.path / "manifest.json").exists()
        ]
        found = self.decision.judge(paths, seeds)
        if found["text"] != self.text:
            self.say(found["text"])
        self.stop, self.text = found["stop"], found["text"]
        write_json(self.file, {"rule": self.rule, **found})

    def _batch(self, launcher: Launcher) -> int:
        """How many seeds are next: as many as run side by side, but at most half as many as have been looked at, since
        what is trained beyond the deciding seed is trained for nothing."""
        most = min(len(self.seeds) - self.count, max(1, self.count // 2))
        running: list[dict[str, Any]] = []
        for number, seed in enumerate(self.seeds[self.count : self.count + most]):
            for trial in self.of_seed[seed]:
                place = launcher.place(trial, running)
                if place is None:
                    return max(1, number)
                running.append(place)
        return most

    def _before(self) -> dict[str, Any]:
        """What an earlier controller wrote; {} for nothing, or for a torn file: it is found again from the runs."""
        try:
            return dict(read_json(self.file))
        except (RunDirError, OSError, TypeError, ValueError):
            return {}

    def _require_same_rule(self) -> None:
        """Raise ``ConfigError`` where looks have been made by another rule."""
        before = self._before()
        rule = before.get("rule", {}) if before.get("looks") else {}
        for key in self.rule if rule else ():
            if rule.get(key) != self.rule[key]:
                raise ConfigError(
                    f"{self.file}: looks were made with {key}={rule.get(key)}, and now it is {self.rule[key]}; a rule "
                    "that changes after a look keeps no error rate: go on with the old one, or give the new one runs "
                    "of its own, harness.root=..."
                )
