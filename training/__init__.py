"""Everything that makes weights: datasets, training loops, evaluation."""
