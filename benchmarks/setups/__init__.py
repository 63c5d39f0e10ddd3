"""Models and data that several benchmarks measure on."""
