"""What is owed of a GPU: measurements by name, of which `gpu.sh` says the order, the company and the time."""
