"""Private. What is put in the place of asyncio's methods, one module for each kind of object.

Every probe calls the original exactly once with what it was given, whatever
happens on our side; it adds nothing to the program's objects that shows.  A
fault of our own is reported once and otherwise ignored; only a hook of the bus
may stop a call.
"""
