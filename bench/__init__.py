"""Load and benchmarks: figures are ratios of two sides in one run, answers are checked."""
