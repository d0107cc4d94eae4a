"""Benchmarks of Sparring, run by hand: `README.md` says which question each of them answers, and with which command."""
