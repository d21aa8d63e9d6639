"""What `truezram` offers to other programs beside the codecs: devices, stores, and what memory would compress to.

Each name is a thin layer over the engine, which the command line and the app use as well: the same checks, the same
errors. The package's own `__init__.py` says which name is where, and loads it when it is first used.
"""
