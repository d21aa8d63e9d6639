"""A choice among few values that leaves the arrow keys to the form it is in."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Select


class Choice(Select[str], inherit_bindings=False):
    """Enter or space opens the list. Textual's own opens it with up and down too: whoever walks through a form with
    them would be caught in the first list."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "show_overlay", "Open the list", show=False)]
