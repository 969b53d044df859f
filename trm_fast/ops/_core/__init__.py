"""What every op stands on, one way: registry <- selection <- validation <- dispatch."""
