"""What a rollout engine says in the log when it broke down, while the trainer waits for its answer without a limit."""

import re
from pathlib import Path

# vLLM: of a worker (also in a weight sync), of the engine's core, of a client of a dead engine.
BROKEN = re.compile(r"WorkerProc hit an exception|EngineCore (?:encountered a fatal|failed to start)|EngineDeadError")
RAISED = re.compile(r"\b((?:\w+\.)*\w+(?:Error|Exception): .+)")
LONGEST = 300  # characters of a reason


class EngineLog:
    """Follows the log of one attempt; call ``look`` now and then."""

    def __init__(self, file: Path):
        self.file, self.offset, self.since = file, 0, ""

    def look(self) -> str | None:
        """Why the engine is broken, once its own words are there: the error that it raised, at the next look."""
        if not self.file.exists():
            return None
        with self.file.open("rb") as file:
            file.seek(self.offset)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]  # the last line may still be being written
        self.offset += len(whole)
        text = whole.decode(errors="replace")
        if self.since:  # the lines after the first one hold its traceback
            errors = RAISED.findall(self.since + text)
            return (errors[-1] if errors else self.since.splitlines()[0].strip())[:LONGEST]
        if found := BROKEN.search(text):
            self.since = text[text.rfind("\n", 0, found.start()) + 1 :]
        return None
