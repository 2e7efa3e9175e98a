"""Private. ``aioaudit attach``: the recorder in a process that was started without anything.

`client` has the process run a few lines (`sys.remote_exec`, PEP 768, Python 3.14 and later), which
start what is in `inside`, and waits for the answer; `target` knows what stands in the way.
"""
