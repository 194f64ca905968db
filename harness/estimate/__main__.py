"""Entry point of ``python -m harness.estimate``."""

import sys

from harness.estimate.cost import main

sys.exit(main(sys.argv[1:]))
