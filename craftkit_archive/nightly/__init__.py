"""The night's work: which steps, in which order, what came of them, and the page that shows it."""
