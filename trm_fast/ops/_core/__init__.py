"""The machinery that all ops share. Imports go one way: registry <- selection <- validation <- dispatch."""
