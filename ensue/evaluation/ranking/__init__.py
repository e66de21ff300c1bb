"""How good ranking models are: metrics per task and slice, over any number of rows."""
