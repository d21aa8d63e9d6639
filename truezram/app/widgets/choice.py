"""A choice among a few values that leaves the arrow keys to its form."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.widgets import Select


class Choice(Select[str], inherit_bindings=False):
    """Enter or space opens the list. Textual's own opens it with up and down too: a form
    could then not be walked through with them."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("enter,space", "show_overlay", "Open the list", show=False)]
