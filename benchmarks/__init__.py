"""What the worker reaches, measured against what is possible. `python -m benchmarks NAME`."""
