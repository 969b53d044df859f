"""What every op stands on, one way: registry <- selection <- validation <- timings <- dispatch; beside them packing."""
