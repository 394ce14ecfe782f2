"""`python -m optimd` is the program `optimd`."""

import sys

from optimd.cli import main

sys.exit(main())
