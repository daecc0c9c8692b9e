"""Whom to tell how a night ended: a dead man's switch, a webhook, a program, people by e-mail, what Apprise knows."""
