"""What weights are made from: data sets, augmentation, batches and caches."""
