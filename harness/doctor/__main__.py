"""Entry point of ``python -m harness.doctor``."""

import sys

from harness.doctor.checkup import main

sys.exit(main(sys.argv[1:]))
