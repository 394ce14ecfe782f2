"""`python -m optimd_server serve …` is `optimd serve …`."""

import sys

from optimd_server.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
