"""`python -m sparring.cli`, as torchrun starts it."""

import sys

from sparring.cli import main

sys.exit(main())
