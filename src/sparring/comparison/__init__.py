"""Tables of the talk, trained and measured here beside the published figures.

`scale` says how large the runs are, `job` trains and measures one of them, `run` runs all of a table, `beside` puts the
figures side by side, and `render` writes them down.
"""

from sparring.comparison.beside import Comparison, compared
from sparring.comparison.run import planned, run
from sparring.comparison.scale import SCALES, Scale

__all__ = ["SCALES", "Comparison", "Scale", "compared", "planned", "run"]
