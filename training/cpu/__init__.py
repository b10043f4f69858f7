"""What only makes training on CPUs faster: written-out backward passes and the allocator, swapped in at set-up."""
