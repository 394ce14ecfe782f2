"""`python -m optimd` is the program `optimd`."""

import sys

from optimdpb.program import main

sys.exit(main())
