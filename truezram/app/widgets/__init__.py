"""Widgets of the app. What is live is drawn with Textual's line API (lines.LineWidget): only lines that changed are
sent."""
