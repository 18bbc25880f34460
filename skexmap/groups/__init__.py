"""Pseudo-groups from clusters."""

from skexmap.groups._labeler import PseudoGroupLabeler
from skexmap.groups._pooling import pool_rare_groups

__all__ = ["PseudoGroupLabeler", "pool_rare_groups"]
