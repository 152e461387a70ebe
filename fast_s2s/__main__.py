"""`python -m fast_s2s` is the command `fast-s2s`."""

import sys

from fast_s2s.cli import main

if __name__ == "__main__":
    sys.exit(main())
