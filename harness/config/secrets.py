"""Nothing secret may stand in what is written down: configurations, manifests, logs, W&B."""

import os
import re
from collections.abc import Mapping
from typing import Any

from harness.config import ConfigError

NAMES = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|CREDENTIALS?)(_|$)", re.IGNORECASE)
FORMS = re.compile(r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9-]{20,}|AKIA[A-Z0-9]{16})\b")
NO_SECRET = ("_PATH", "_FILE", "_MODE")  # of names: where a secret is, not what it is
SHORTEST = 8  # characters: shorter values of such variables are words like "true"


def refuse_secrets(flat: Mapping[str, Any]) -> None:
    """Raise ``ConfigError`` for a value that is, or has in it, a secret of the environment or a well-known token.

    flat: resolved configuration. The message names the key and never the value.
    """
    held = {
        name: value
        for name, value in os.environ.items()
        if NAMES.search(name) and not name.endswith(NO_SECRET) and len(value) >= SHORTEST
    }
    for key, value in flat.items():
        text = str(value)
        found = next((f"the value of ${name}" for name, secret in held.items() if secret in text), None)
        if found or FORMS.search(text):
            raise ConfigError(
                f"{key} has {found or 'a token'} in it, and configurations are written down; leave it to the "
                "environment, or to `wandb login` and `hf auth login` on each node"
            )
