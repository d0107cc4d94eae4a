"""`python -m sparring.cli`, which was the way before `python -m sparring`."""

import sys
import warnings

from sparring.cli import main

warnings.warn("python -m sparring.cli is called python -m sparring now.", DeprecationWarning, stacklevel=1)
sys.exit(main())
