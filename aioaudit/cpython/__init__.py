"""Private. The one room in which CPython itself is touched."""
