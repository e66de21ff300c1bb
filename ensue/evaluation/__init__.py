"""Rankings to numbers: exact ranks, metrics, intervals, comparisons."""
