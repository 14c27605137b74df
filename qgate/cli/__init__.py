"""The command line: arguments -> one call each. Heavy imports wait for a command."""
