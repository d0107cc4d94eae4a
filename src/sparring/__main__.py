"""`python -m sparring`, as torchrun starts it."""

import sys

from sparring.cli import main

sys.exit(main())
