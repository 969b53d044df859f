"""The command line. No logic lives here: each command reads its options, calls a room below and draws the result."""
