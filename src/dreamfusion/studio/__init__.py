"""The studio: a local page to make objects on, and the HTTP interface under it (`dreamfusion studio`).

``serve.py`` starts it and ``guard.py`` says who may talk to it. ``routes.py`` is the interface that docs/studio.md
describes; ``page/`` is a client of it like any other. ``orders.py`` holds what can be asked for, ``queue.py`` who is
next, ``work.py`` and ``worker.py`` the process that does it. ``gallery.py`` and ``removal.py`` look after the runs.
"""
