"""Private. Code objects and frames, and what they say of who called whom."""
