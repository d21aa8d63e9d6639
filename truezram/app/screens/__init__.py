"""The app's screens: the ones that can be switched between (see app.MODES) and the dialogs on top of them."""
