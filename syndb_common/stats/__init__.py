"""Statistics that survive distribution: moments that merge, effect sizes, meta-analysis.

Nodes reduce their rows to :class:`Moments`; the hub merges those of one data set exactly, makes an effect size of
each and pools them. Names, conventions and defaults are those of R's metafor (Viechtbauer 2010,
doi:10.18637/jss.v036.i03), against whose results the tests compare.
"""

from syndb_common.stats.effects import effect_size
from syndb_common.stats.meta import MetaAnalysis, meta_analysis
from syndb_common.stats.moments import Moments, merge

__all__ = ["MetaAnalysis", "Moments", "effect_size", "merge", "meta_analysis"]
