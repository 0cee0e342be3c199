"""The benchmarks: what a decision costs, next to reading the clock and next to other libraries. See README.md."""
