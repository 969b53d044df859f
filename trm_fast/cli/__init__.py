"""The command line, without logic of its own: a command reads its options, calls other packages and prints the result."""
