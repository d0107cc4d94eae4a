"""One page about runs: are they robust, can their figures be trusted, and what was seen."""

from sparring.report.contents import Report, gathered
from sparring.report.page import page

__all__ = ["Report", "gathered", "page"]
