"""Notifications of how a night ended: by a dead man's switch, a webhook, a program, e-mail, or Apprise."""
