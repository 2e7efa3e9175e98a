"""Private. What goes wrong with cancellations: told live as events, and read from logs again.

`catalogue` knows every kind, `rules` finds them while the program runs, `words`
says them to people, `groups` counts those of one kind at the same lines.
"""
