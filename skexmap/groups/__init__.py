"""Pseudo-groups from clusters."""

from skexmap.groups._labeler import PseudoGroupLabeler

__all__ = ["PseudoGroupLabeler"]
