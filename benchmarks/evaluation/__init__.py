"""Whether our evaluation gives the reference's verdicts, and how much faster."""
