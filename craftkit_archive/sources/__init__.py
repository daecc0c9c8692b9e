"""Where assets are copied from."""
