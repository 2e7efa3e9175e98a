"""Private. Asking a process while it runs: what is said, where, and what is known of its tasks.

`protocol` has the shapes of questions and answers, `folder` the place where sockets are, `tasks`
describes the tasks that live, `client` asks.  Who answers is `aioaudit.exporters.recorder`.
"""
