"""Pictures of a merge tree."""
