"""Private. What every error of ours is: one base, so that one ``except`` has them all."""


class AioauditError(Exception):
    """The base of every error that aioaudit itself defines.

    Each has a built-in base as well where one fits, such as `ValueError` for a bad
    setting.  Wrong arguments are `TypeError`, files that cannot be read `OSError`, as ever.
    """
