"""Results: tables and figures made from evaluations and metrics."""
