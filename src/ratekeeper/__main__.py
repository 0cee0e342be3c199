"""`python -m ratekeeper`: the command `ratekeeper` by this interpreter, wherever the command itself is."""

import sys

from ratekeeper.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
