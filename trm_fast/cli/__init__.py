"""The command line, without logic of its own: a command reads its options, calls other rooms and prints the result."""
