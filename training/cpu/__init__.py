"""What only makes training on CPUs faster."""
