"""Other systems on the same network and images, each a script in a virtual environment of its own.

A script answers JSON lines (`protocol.py`); what it installs is pinned in the `.txt` beside it.
Nothing here is a dependency of the project, and no code of theirs is copied: the scripts call
their documented interfaces, with the settings found fastest on the network measured.
"""
