"""The base of the dialogs that ask the app for something."""

from __future__ import annotations

from typing import cast

from textual.screen import ModalScreen, ScreenResultType

from truezram.app.core import Core


class Dialog(ModalScreen[ScreenResultType]):
    """A dialog that knows the app."""

    @property
    def tz(self) -> Core:
        """The app."""
        return cast(Core, self.app)
