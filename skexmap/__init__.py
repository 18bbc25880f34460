"""Find and repair the shortcuts of trained image classifiers without group labels."""

__version__ = "0.1.0"
