"""Reports that say which shortcut the model leans on, and show it."""

from skexmap.report._report import ShortcutReport

__all__ = ["ShortcutReport"]
