"""From clusters to pseudo-groups."""

from skexmap.groups._labeler import PseudoGroupLabeler

__all__ = ["PseudoGroupLabeler"]
