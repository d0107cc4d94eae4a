"""How steps are made faster: a plan for the run, compiled networks, and steps that are captured and replayed."""
