"""The app: Textual, on top of truezram.engine."""

import os

# Textual, which reads this when it is imported, draws at ticks of so many a second, as long as there is something to
# draw. A key that comes in while a large frame is drawn waits for the next tick but one.
os.environ.setdefault("TEXTUAL_FPS", "120")
