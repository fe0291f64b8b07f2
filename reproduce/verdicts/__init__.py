"""From records to verdicts: metrics, intervals, the kinds of claims, and the rule by which runs answer them."""
