"""One file per released step; a released one never changes."""
