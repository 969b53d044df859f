"""The command line: each command reads its options, calls other packages, and prints the result."""
