"""Private. Why ``cancel()`` was called, from the stack and from what is known."""
