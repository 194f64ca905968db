"""What a Ray node of ours starts for each worker: ``worker_path`` and ``setup_worker_path`` of Ray's ``RayParams``.

Ray's own two scripts load Ray, 0.6 s of a core, to read one JSON, and become Python again. This one reads it too and
asks the fork server for the worker. What the server cannot give (another Python, a container, another language) is left
to Ray's scripts, as is everything where no server answers.
"""

import argparse
import json
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path

if __name__ == "__main__":
    import fork_client  # beside this file, which Ray runs as a script
else:
    from harness.run import fork_client

SERVER = "HARNESS_FORK_SERVER"  # environment variable: address of the server


def main(arguments: list[str]) -> int:
    """Exit status of the worker with these arguments of Ray's; or never returns, for it became another program."""
    spec = find_spec("ray")  # without loading it
    assert spec
    assert spec.origin
    scripts = Path(spec.origin).parent / "_private" / "workers"
    worker = str(scripts / "default_worker.py")
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--serialized-runtime-env-context")
    parser.add_argument("--language")
    known, rest = parser.parse_known_args(arguments)
    rest = [worker if os.path.realpath(word) == os.path.realpath(__file__) else word for word in rest]
    if rest[:1] != [worker]:  # Ray calls its worker directly where there is nothing to set up
        rest = [worker, *rest]
    context = json.loads(known.serialized_runtime_env_context or "{}")
    variables = context.pop("env_vars", None) or {}
    if known.language not in (None, "PYTHON") or any(value for value in context.values() if value != sys.executable):
        setup = [f"--{name.replace('_', '-')}={value}" for name, value in vars(known).items() if value is not None]
        os.execv(sys.executable, [sys.executable, str(scripts / "setup_worker.py"), *setup, *rest])
    for name, value in variables.items():  # as ray._private.utils.update_envs does
        os.environ[name] = re.sub(r"\$\{[A-Z0-9_]+\}", "", os.path.expandvars(value))
    return fork_client.main(os.environ.get(SERVER, ""), rest)


if __name__ == "__main__":
    fork_client.leave(main(sys.argv[1:]))
