"""Entry point of ``python -m harness.evaluate``."""

import sys

from harness.evaluate.evaluation import main

sys.exit(main())
