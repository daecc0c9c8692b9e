"""Reports: gathers what is stored and what was found, and writes it in several forms."""
