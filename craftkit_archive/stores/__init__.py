"""Where assets are: folders and buckets."""
