"""The commands, by family: words to calls, records to lines."""
