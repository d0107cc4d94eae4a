"""What benchmarks share: the scene, our side of it, the table of methods, clocks, command lines and records."""
